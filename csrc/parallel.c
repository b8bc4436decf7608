/* The only place that knows OpenMP: how many threads there are, and how tasks reach them. */
#include "parallel.h"
#include "pyconv.h"

#include <pthread.h>
#include <stdatomic.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* Waking the other threads costs about 5 us when they sleep; a thread must have more to do than that. */
#define NANOSECONDS_PER_THREAD 10000.0

static atomic_int num_threads = 1;
/* libgomp's threads do not survive fork(), and a child that asks for them hangs: it runs serially. */
static atomic_int forked = 0;

static void after_fork_in_child(void) { atomic_store(&forked, 1); }

__attribute__((constructor)) static void watch_fork(void) { pthread_atfork(NULL, NULL, after_fork_in_child); }

int pyconv_has_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

void pyconv_set_num_threads(int threads) { atomic_store(&num_threads, threads); }

int pyconv_get_num_threads(void) {
    return pyconv_has_openmp() && !atomic_load(&forked) ? atomic_load(&num_threads) : 1;
}

/* What this thread has streamed (stream.h) is seen by the others before whatever it writes from here on. */
static void finish_streams(void) {
#ifdef __SSE2__
    __builtin_ia32_sfence();
#endif
}

#ifdef _OPENMP
/* The tasks of one thread: those before `next` are taken. On a cache line of its own. */
struct share {
    _Alignas(64) atomic_ptrdiff_t next;
    ptrdiff_t end;
};

/* Each thread begins with a share of neighbouring tasks, the same one in every call of this size: so what one
 * kernel has left in a core's L2 is where the next kernel looks for it (LeNet: 4 % of a training step). Then
 * it takes what is left of the others' shares. */
static void run_shares(struct share *shares, int threads, int self, parallel_task *run, const void *context,
                       void *scratch) {
    for (int i = 0; i < threads; i++) {
        struct share *share = shares + (self + i) % threads;
        for (ptrdiff_t task; (task = atomic_fetch_add(&share->next, 1)) < share->end;)
            run(context, task, scratch);
    }
    finish_streams();
}
#endif

int parallel_run(ptrdiff_t tasks, double cost, size_t scratch, parallel_task *run, const void *context) {
    int threads = pyconv_get_num_threads();
    if (threads > tasks) threads = (int)tasks;
    if (threads > 1 && threads > cost / NANOSECONDS_PER_THREAD)
        threads = (int)(cost / NANOSECONDS_PER_THREAD);
    if (threads < 1) threads = 1;

    scratch = (scratch + 4095) & ~(size_t)4095; /* no two threads on one page */
    char *memory = NULL;
    size_t bytes, share_bytes = 0;
#ifdef _OPENMP
    if (threads > 1) share_bytes = (size_t)threads * sizeof(struct share);
#endif
    if (__builtin_mul_overflow(scratch, (size_t)threads, &bytes) ||
        __builtin_add_overflow(bytes, share_bytes, &bytes))
        return PYCONV_NO_MEMORY;
    if (bytes && !(memory = pyconv_alloc(bytes))) return PYCONV_NO_MEMORY;

    if (threads == 1) {
        for (ptrdiff_t task = 0; task < tasks; task++) run(context, task, memory);
        finish_streams();
    } else {
#ifdef _OPENMP
        struct share *shares = (struct share *)(memory + (size_t)threads * scratch);
        for (int i = 0; i < threads; i++) {
            atomic_init(&shares[i].next, tasks * i / threads);
            shares[i].end = tasks * (i + 1) / threads;
        }
#pragma omp parallel num_threads(threads)
        {
            int self = omp_get_thread_num();
            run_shares(shares, threads, self, run, context, memory + (size_t)self * scratch);
        }
#endif
    }
    if (memory) pyconv_free(memory, bytes);
    return PYCONV_OK;
}
