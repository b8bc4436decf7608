/* The kernels' self-test: every family against plain loops in double, on small shapes around every edge.
 *
 * It needs no Python, so it also runs under an emulator (NEON) and under sanitizers. memory.c and parallel.c
 * of csrc are left out; world.c stands in for both and is less kind than they are: blocks have exactly the
 * size that was asked for and hold NaN, tasks come in descending order on several threads with NaN in their
 * scratch memory, and every allocation fails once.
 */
#ifndef PYCONV_SELFTEST_H
#define PYCONV_SELFTEST_H

#include "pyconv.h"

/* The table under test, and its scalar type. */
extern const struct pyconv_kernels *kernels;
extern int dtype;

void test_conv(void);
void test_pool(void);
void test_resample(void);
void test_elementwise(void);
void test_matrix(void);
void test_norm(void);
void test_loss(void);

/* ---- Arrays ---- */

enum element { REAL, DOUBLE, INT64, INT32, BYTE }; /* REAL: float or double, as dtype says */

/* An argument of a kernel, between guard bytes. `value` is for the test to fill in: what an input holds, and
 * what is expected of an output. `data` is the kernel's, aligned as its elements are and no better. */
struct array {
    enum element element;
    ptrdiff_t count;
    double *value, *start; /* start: what an output holds before; NULL: rubbish */
    void *data;
    int is_output;
    char *memory, *first_result;
    struct array *next;
};

/* They live until end_case. Numbers come from a generator that is the same on every machine. */
struct array *input(enum element, ptrdiff_t count);
struct array *whole(ptrdiff_t count, int largest); /* an input of integers in [-largest, largest] */
struct array *uniform(ptrdiff_t count, double low, double high); /* an input of reals in [low, high) */
struct array *output(enum element, ptrdiff_t count);
struct array *updated(const struct array *input); /* an output that holds the same before the kernel runs */
void *data(const struct array *);                 /* where the elements are; NULL for NULL */
ptrdiff_t pick(ptrdiff_t count);                  /* one of 0 ... count - 1 */

/* ---- Cases ---- */

void begin_case(const char *format, ...) __attribute__((format(printf, 1, 2)));
void end_case(void);
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Run `call`, a kernel's status, serially, with threads, and with each of its allocations failing: the
 * results must have the same bits, and nothing but the outputs may be written to. */
#define RUN(call) RUN_FOR(PYCONV_OK, call)
#define RUN_FOR(status, call)                                                                                \
    do {                                                                                                     \
        start_runs(status);                                                                                  \
        do prepare_run();                                                                                    \
        while (check_run(call));                                                                             \
    } while (0)
void start_runs(int status);
void prepare_run(void);
int check_run(int status);

/* Compare an output with its value; the error may be `tolerance` times the largest value, or 1. */
void expect(const char *name, const struct array *output, double tolerance);

/* What rounding alone may do to sums of inexact numbers */
double rounding(void);

/* ---- world.c ---- */

void use_threads(int wanted);          /* several, or the calling one */
void fail_allocation(ptrdiff_t which); /* 0 for the next, -1 for none */
int allocation_failed(void);
ptrdiff_t blocks_in_use(void);
int world_errors(void); /* writes outside of blocks, frees of wrong sizes */

#endif
