/* What the kernels are given in the self-test instead of memory.c and parallel.c. */
#include "parallel.h"
#include "selftest.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 64
#define GUARD_BYTE 0xa5
#define NAN_BYTE 0xff /* floats and doubles of this are NaN */
#define THREADS 3

static int threaded;
static atomic_ptrdiff_t allocations_left = -1, in_use;
static atomic_int failed, errors;

void use_threads(int wanted) { threaded = wanted; }

void fail_allocation(ptrdiff_t which) {
    allocations_left = which;
    failed = 0;
}

int allocation_failed(void) { return failed; }
ptrdiff_t blocks_in_use(void) { return in_use; }
int world_errors(void) { return errors; }

/* [GUARD bytes that begin with the size][the block][GUARD bytes]; the address sanitizer guards the end itself
 */
#ifdef __SANITIZE_ADDRESS__
#define AFTER 0
#else
#define AFTER GUARD
#endif

void *pyconv_alloc(size_t bytes) {
    ptrdiff_t left = atomic_load(&allocations_left);
    if (left >= 0 && atomic_fetch_sub(&allocations_left, 1) == 0) {
        failed = 1;
        return NULL;
    }
    void *memory;
    if (bytes > (size_t)1 << 40 || posix_memalign(&memory, GUARD, GUARD + bytes + AFTER)) return NULL;
    memset(memory, GUARD_BYTE, GUARD);
    memcpy(memory, &bytes, sizeof bytes);
    char *block = (char *)memory + GUARD;
    memset(block, NAN_BYTE, bytes);
    for (ptrdiff_t i = 0; i < AFTER; i++) block[bytes + i] = (char)GUARD_BYTE;
    in_use++;
    return block;
}

static int is_guard(const char *from, const char *to) {
    while (from < to && *from == (char)GUARD_BYTE) from++;
    return from == to;
}

void pyconv_free(void *block, size_t bytes) {
    if (!block) return;
    char *at = block;
    size_t asked;
    memcpy(&asked, at - GUARD, sizeof asked);
    if (asked != bytes || !is_guard(at - GUARD + sizeof asked, at) ||
        !is_guard(at + bytes, at + bytes + AFTER))
        errors++;
    in_use--;
    free(at - GUARD);
}

/* ---- Tasks ---- */

static struct team {
    parallel_task *run;
    const void *context;
    size_t scratch;
    void *memory[THREADS];
    atomic_ptrdiff_t left;
} team;

static void run_task(ptrdiff_t task, void *scratch) {
    if (scratch) memset(scratch, NAN_BYTE, team.scratch);
    team.run(team.context, task, scratch);
}

static void run_left(void *scratch) {
    ptrdiff_t task;
    while ((task = atomic_fetch_sub(&team.left, 1) - 1) >= 0) run_task(task, scratch);
}

/* The threads are started once and live for ever: an emulator is slow to start them, and leaks. */
static pthread_barrier_t begin, end;

static void *work(void *scratch) {
    while (pthread_barrier_wait(&begin) <= 0) { /* a positive value is an error */
        run_left(*(void **)scratch);
        pthread_barrier_wait(&end);
    }
    return NULL;
}

static void start_threads(void) {
    static int started;
    if (started) return;
    started = 1;
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    pthread_barrier_init(&end, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, &team.memory[i])) abort();
        pthread_detach(thread);
    }
}

int parallel_run(ptrdiff_t tasks, double cost, size_t scratch, parallel_task *run, const void *context) {
    if (!(cost >= 0)) errors++;
    team.run = run, team.context = context, team.scratch = scratch, team.left = tasks;
    int made = 0, threads = threaded ? THREADS : 1, status = PYCONV_OK;
    for (; made < threads && status == PYCONV_OK; made++) {
        team.memory[made] = scratch ? pyconv_alloc(scratch) : NULL;
        if (scratch && !team.memory[made]) status = PYCONV_NO_MEMORY;
    }
    if (status == PYCONV_OK && threaded) {
        start_threads();
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
    } else if (status == PYCONV_OK) {
        for (ptrdiff_t task = 0; task < tasks; task++) run_task(task, team.memory[0]);
    }
    for (int i = 0; i < made; i++) pyconv_free(team.memory[i], scratch);
    return status;
}

int pyconv_get_num_threads(void) { return threaded ? THREADS : 1; }
