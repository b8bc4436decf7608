"""`python -m benchmarks profile MODEL`: where a training step's time goes, and what bounds each layer."""

from benchmarks import networks


def run(pyconv, here, model, settings, show):
    """Profile the training step of the first case of networks.TRAIN or INFER with this model."""
    name = model.replace("-", "_")
    known = {case["model"]: case for case in reversed(networks.TRAIN + networks.INFER)}
    if name not in known:
        raise SystemExit(f"profile: MODEL must be one of {', '.join(sorted(known))}; got {model!r}")
    case = known[name]
    steps = 2 if settings.quick else 10
    result = pyconv.ask("profile", case=case, steps=steps)
    show(f"{case['label']}: {1e3 * result['step']:.2f} ms a step, of {steps}; traced {1e3 * result['traced']:.2f} ms\n")
    show(f"{'pass':8} {'layer':34} {'input':18} {'ms':>8} {'of step':>8} {'GFLOP/s':>8} {'GB/s':>6} {'of bound':>8}")
    total = result["traced"]
    for row in result["rows"]:
        seconds = row["seconds"]
        bound = max(row["operations"] / here["gflops"], row["bytes"] / here["gbytes"]) / 1e9
        rates = f"{'':8} {'':6} {'':8}"
        if row["bytes"]:
            speed = f"{row['operations'] / seconds / 1e9:8.0f}" if row["operations"] else f"{'':8}"
            rates = f"{speed} {row['bytes'] / seconds / 1e9:6.1f} {bound / seconds:8.0%}"
        show(f"{row['pass']:8} {row['path'][-22:] + ' ' + row['kind']:34.34} {row['input']:18} {1e3 * seconds:8.3f} "
             f"{seconds / total:8.1%} {rates}")  # fmt: skip
    rest = total - sum(row["seconds"] for row in result["rows"])
    show(f"{'':8} {'between the calls':53} {1e3 * rest:8.3f} {rest / total:8.1%}")
    show("\nGFLOP/s are those of the direct algorithm; the bound is the larger of arithmetic at the FMA peak and the "
         "least memory\ntraffic at the streaming rate, so Winograd, and data that stay in a cache, can exceed it. "
         "Containers: joins and Python.")  # fmt: skip
    return result
