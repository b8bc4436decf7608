/* Arrays, cases and the main program of the self-test. */
#include "selftest.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 256
#define NAN_BYTE 0xff /* floats and doubles of this are NaN */
#define MOST_MESSAGES 20

const struct pyconv_kernels *kernels;
int dtype;

static struct array *arrays;
static char case_name[400];
static int cases, failures;
static uint64_t random_state;

/* ---- Cases ---- */

void begin_case(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(case_name, sizeof case_name, format, list);
    va_end(list);
    cases++;
}

void fail(const char *format, ...) {
    if (failures++ >= MOST_MESSAGES) return;
    va_list list;
    va_start(list, format);
    printf("FAILED %s: ", case_name);
    vprintf(format, list);
    printf("\n");
    va_end(list);
}

void end_case(void) {
    for (struct array *a = arrays, *next; a; a = next) {
        next = a->next;
        free(a->value);
        free(a->start);
        free(a->memory);
        free(a->first_result);
        free(a);
    }
    arrays = NULL;
}

double rounding(void) { return dtype == PYCONV_F32 ? 2e-6 : 1e-13; }

/* ---- Arrays ---- */

/* What surrounds an input shows where it is read; what surrounds an output, where a NaN is written too. */
static char guard_byte(const struct array *a) { return (char)(a->is_output ? 0xa5 : NAN_BYTE); }

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) abort();
    return memory;
}

static size_t element_bytes(enum element element) {
    if (element == REAL) return dtype == PYCONV_F32 ? sizeof(float) : sizeof(double);
    return element == BYTE ? 1 : element == INT32 ? 4 : 8;
}

static size_t bytes_of(const struct array *a) { return (size_t)a->count * element_bytes(a->element); }

static double get(const struct array *a, ptrdiff_t i) {
    switch (a->element) {
    case BYTE: return ((uint8_t *)a->data)[i];
    case INT32: return ((int32_t *)a->data)[i];
    case INT64: return (double)((int64_t *)a->data)[i];
    case REAL:
        if (dtype == PYCONV_F32) return ((float *)a->data)[i]; /* fall through */
    default: return ((double *)a->data)[i];
    }
}

static void set(struct array *a, ptrdiff_t i, double x) {
    switch (a->element) {
    case BYTE: ((uint8_t *)a->data)[i] = (uint8_t)x; return;
    case INT32: ((int32_t *)a->data)[i] = (int32_t)x; return;
    case INT64: ((int64_t *)a->data)[i] = (int64_t)x; return;
    case REAL:
        if (dtype == PYCONV_F32) {
            ((float *)a->data)[i] = (float)x;
            return;
        } /* fall through */
    default: ((double *)a->data)[i] = x;
    }
}

static struct array *new_array(enum element element, ptrdiff_t count, int is_output) {
    struct array *a = allocate(sizeof *a);
    *a = (struct array){.element = element, .count = count, .is_output = is_output, .next = arrays};
    arrays = a;
    a->value = calloc((size_t)count + 1, sizeof(double));
    if (!a->value) abort();
    size_t front = GUARD + element_bytes(element); /* malloc's alignment must not hide a demand for it */
#ifdef __SANITIZE_ADDRESS__
    size_t behind = 0; /* the sanitizer guards the end, reads included */
#else
    size_t behind = GUARD;
#endif
    a->memory = allocate(front + bytes_of(a) + behind);
    memset(a->memory, guard_byte(a), front + bytes_of(a) + behind);
    a->data = a->memory + front;
    return a;
}

struct array *input(enum element element, ptrdiff_t count) { return new_array(element, count, 0); }
struct array *output(enum element element, ptrdiff_t count) { return new_array(element, count, 1); }
void *data(const struct array *a) { return a ? a->data : NULL; }

struct array *updated(const struct array *from) {
    struct array *a = output(from->element, from->count);
    a->start = allocate((size_t)a->count * sizeof(double));
    memcpy(a->start, from->value, (size_t)a->count * sizeof(double));
    memcpy(a->value, from->value, (size_t)a->count * sizeof(double));
    return a;
}

static uint64_t random_bits(void) { /* Marsaglia's xorshift64 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

ptrdiff_t pick(ptrdiff_t count) { return (ptrdiff_t)((random_bits() >> 20) % (uint64_t)count); }

struct array *whole(ptrdiff_t count, int largest) {
    struct array *a = input(REAL, count);
    for (ptrdiff_t i = 0; i < count; i++) a->value[i] = (double)(pick(2 * largest + 1) - largest);
    return a;
}

struct array *uniform(ptrdiff_t count, double low, double high) {
    struct array *a = input(REAL, count);
    for (ptrdiff_t i = 0; i < count; i++) /* a float: exact in both types */
        a->value[i] = (float)(low + (high - low) * (double)pick(1 << 20) / (1 << 20));
    return a;
}

/* ---- Runs ---- */

static int expected_status, stage;
enum { SERIAL, THREADED, FAILING }; /* stages; from FAILING on, allocation `stage - FAILING` fails */

void start_runs(int status) {
    expected_status = status;
    stage = SERIAL;
}

void prepare_run(void) {
    for (struct array *a = arrays; a; a = a->next) {
        const double *from = a->is_output ? a->start : a->value;
        if (!from) memset(a->data, NAN_BYTE, bytes_of(a));
        for (ptrdiff_t i = 0; from && i < a->count; i++) set(a, i, from[i]);
    }
    use_threads(stage == THREADED);
    fail_allocation(stage >= FAILING ? stage - FAILING : -1);
}

static void check_memory(void) {
    for (struct array *a = arrays; a; a = a->next) {
        const char *begin = a->memory, *end = (char *)a->data + bytes_of(a);
        for (const char *p = begin; p < (char *)a->data; p++)
            if (*p != guard_byte(a)) return fail("wrote %td bytes before an array", (char *)a->data - p);
#ifndef __SANITIZE_ADDRESS__
        for (const char *p = end; p < end + GUARD; p++)
            if (*p != guard_byte(a)) return fail("wrote %td bytes behind an array", p - end);
#else
        (void)end;
#endif
        for (ptrdiff_t i = 0; !a->is_output && i < a->count; i++)
            if (get(a, i) != a->value[i] && !isnan(a->value[i])) return fail("wrote to input [%td]", i);
    }
    if (blocks_in_use()) fail("kept %td blocks of memory", blocks_in_use());
    if (world_errors()) fail("wrote outside of its workspace, or freed a wrong size");
}

static void check_bits(void) {
    for (struct array *a = arrays; a; a = a->next) {
        if (!a->is_output) continue;
        if (stage == SERIAL) {
            free(a->first_result);
            a->first_result = allocate(bytes_of(a));
            memcpy(a->first_result, a->data, bytes_of(a));
        } else if (memcmp(a->first_result, a->data, bytes_of(a))) {
            fail("other bits in stage %d", stage);
        }
    }
}

/* Whether there is another run to make. */
int check_run(int status) {
    int failing = allocation_failed(), wanted = failing ? PYCONV_NO_MEMORY : expected_status;
    fail_allocation(-1);
    if (status != wanted) fail("status %d in stage %d, expected %d", status, stage, wanted);
    check_memory();
    if (!failing) check_bits();
    return stage++ < FAILING || failing;
}

void expect(const char *name, const struct array *a, double tolerance) {
    double scale = tolerance ? 1 : 0;
    for (ptrdiff_t i = 0; i < a->count; i++)
        if (isfinite(a->value[i])) scale = fmax(scale, fabs(a->value[i]));
    for (ptrdiff_t i = 0; i < a->count; i++) {
        double actual = get(a, i), wanted = a->value[i];
        int right = isfinite(wanted) ? fabs(actual - wanted) <= tolerance * scale
                                     : actual == wanted || (isnan(actual) && isnan(wanted));
        if (!right) return fail("%s[%td of %td] is %.9g, expected %.9g", name, i, a->count, actual, wanted);
    }
}

/* ---- The main program ---- */

/* The levels that the arguments name, or all. */
static int is_asked(int isa, int count, char **names) {
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], pyconv_isa_name(isa)) == 0) return 1;
    return count == 0;
}

int main(int argc, char **argv) {
    int levels = 0;
    for (int isa = 0; isa < PYCONV_ISA_COUNT; isa++)
        for (dtype = 0; dtype < PYCONV_DTYPE_COUNT; dtype++) {
            kernels = pyconv_kernels(isa, dtype);
            if (!kernels || !is_asked(isa, argc - 1, argv + 1)) continue;
            levels += dtype == 0;
            random_state = 88172645463325252u;
            cases = 0;
            test_conv();
            test_pool();
            test_resample();
            test_elementwise();
            test_matrix();
            test_norm();
            test_loss();
            printf("%s %s: %d cases\n", pyconv_isa_name(isa), dtype == PYCONV_F32 ? "f32" : "f64", cases);
            fflush(stdout);
        }
    if (failures) printf("%d FAILED\n", failures);
    if (levels < argc - 1) printf("NOT TESTED: this machine lacks a level that was asked for\n");
    return failures || levels < argc - 1 ? EXIT_FAILURE : EXIT_SUCCESS;
}
