/* A pool of memory blocks.
 *
 * Fresh memory is expensive: a fresh 64 MB array costs 6 ms of page faults over reusing one. So blocks
 * that are given back are kept, up to LIMIT bytes in all.
 *
 * Small blocks wait in a list of their size class for the next caller of the same class: eight classes to a
 * doubling, so at most an eighth of a block is wasted. Large blocks are spans of regions: a request takes
 * the smallest idle span that can hold it and leaves the rest idle, and neighbours that are idle become one
 * again. So a step of training, whose arrays are of many sizes, needs 5 to 10 % more memory than are alive
 * at its fullest moment; with size classes it needed 30 to 50 %.
 */
#include "pyconv.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)
#define LIMIT ((size_t)1 << 30)
#define LARGE ((size_t)1 << 20) /* bytes of the smallest block that is a span */
#define GRAIN ((size_t)1 << 16) /* sizes of spans are multiples of this, as is every system's page */
#define STEPS 8                 /* size classes to a doubling */
#define SMALLEST ((size_t)1024) /* bytes of the first class */
#define CLASSES (STEPS * 10 + 1)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t idle_bytes; /* of both kinds */

static void lock_pool(void) { pthread_mutex_lock(&lock); }
static void unlock_pool(void) { pthread_mutex_unlock(&lock); }

/* A fork() while another thread holds the lock would leave it locked in the child for ever. */
__attribute__((constructor)) static void watch_fork(void) {
    pthread_atfork(lock_pool, unlock_pool, unlock_pool);
}

/* ---- Large blocks; the caller holds the lock ---- */

/* All memory of the regions, in order of address. Spans that touch are of one region or could be. */
static struct span {
    char *start;
    size_t size;
    int idle;
} *spans;
static size_t span_count, span_room;

/* Room for two spans more, which is what any one change can need. */
static int reserve_spans(void) {
    if (span_count + 2 <= span_room) return 1;
    size_t room = span_room ? 2 * span_room : 64;
    struct span *larger = realloc(spans, room * sizeof *spans);
    if (!larger) return 0;
    spans = larger;
    span_room = room;
    return 1;
}

static void insert_span(size_t at, struct span span) {
    memmove(spans + at + 1, spans + at, (span_count - at) * sizeof *spans);
    spans[at] = span;
    span_count++;
}

static void remove_span(size_t at) {
    span_count--;
    memmove(spans + at, spans + at + 1, (span_count - at) * sizeof *spans);
}

/* The first span that does not begin before an address. */
static size_t find_span(const char *address) {
    size_t low = 0, high = span_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (spans[middle].start < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Join span `at` with the idle spans that touch it; returns where it is then. */
static size_t join_spans(size_t at) {
    if (at + 1 < span_count && spans[at + 1].idle &&
        spans[at].start + spans[at].size == spans[at + 1].start) {
        spans[at].size += spans[at + 1].size;
        remove_span(at + 1);
    }
    if (at > 0 && spans[at - 1].idle && spans[at - 1].start + spans[at - 1].size == spans[at].start) {
        spans[at - 1].size += spans[at].size;
        remove_span(at--);
    }
    return at;
}

/* Memory from the system, aligned to huge pages, which are advised: just below `above` if that can be had. */
static char *map_region(size_t bytes, char *above) {
    int access = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS;
    char *region =
        above && (size_t)above > bytes ? mmap(above - bytes, bytes, access, kind, -1, 0) : MAP_FAILED;
    if (region != MAP_FAILED && ((size_t)region & (HUGE_PAGE - 1))) {
        munmap(region, bytes);
        region = MAP_FAILED;
    }
    if (region == MAP_FAILED) {
        region = mmap(NULL, bytes + HUGE_PAGE, access, kind, -1, 0);
        if (region == MAP_FAILED) return NULL;
        size_t before = -(size_t)region & (HUGE_PAGE - 1);
        if (before) munmap(region, before);
        munmap(region + before + bytes, HUGE_PAGE - before);
        region += before;
    }
#ifdef MADV_HUGEPAGE
    madvise(region, bytes, MADV_HUGEPAGE);
#endif
    return region;
}

/* An idle span of `bytes` at least: what the lowest region lacks is mapped below it, where the system too
 * would map next, so regions mostly grow into one. Returns its index, or -1. */
static ptrdiff_t grow(size_t bytes) {
    struct span *lowest = span_count ? spans : NULL;
    int extend = lowest && !((size_t)lowest->start & (HUGE_PAGE - 1));
    size_t need = (extend && lowest->idle ? bytes - lowest->size : bytes) + HUGE_PAGE - 1;
    need &= ~(HUGE_PAGE - 1);
    char *region = map_region(need, extend ? lowest->start : NULL);
    if (region && need < bytes && region + need != lowest->start) { /* elsewhere: all of it must be new */
        munmap(region, need);
        need = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
        region = map_region(need, NULL);
    }
    if (!region) return -1;
    size_t at = find_span(region);
    insert_span(at, (struct span){region, need, 1});
    idle_bytes += need;
    return (ptrdiff_t)join_spans(at);
}

static size_t span_size(size_t bytes) { return (bytes + GRAIN - 1) & ~(GRAIN - 1); }

static void *take_span(size_t bytes) {
    if (!reserve_spans()) return NULL;
    ptrdiff_t best = -1;
    for (size_t i = 0; i < span_count; i++)
        if (spans[i].idle && spans[i].size >= bytes && (best < 0 || spans[i].size < spans[best].size))
            best = (ptrdiff_t)i;
    if (best < 0) best = grow(bytes);
    if (best < 0) return NULL;
    size_t rest = spans[best].size - bytes; /* at the lower end, where regions grow */
    char *start = spans[best].start + rest;
    spans[best] = (struct span){start, bytes, 0};
    if (rest) insert_span((size_t)best, (struct span){start - rest, rest, 1});
    idle_bytes -= bytes;
    return start;
}

static void release_span(size_t at) {
    idle_bytes -= spans[at].size;
    munmap(spans[at].start, spans[at].size);
    remove_span(at);
}

static void give_span(char *start) {
    size_t at = find_span(start);
    spans[at].idle = 1;
    idle_bytes += spans[at].size;
    if (idle_bytes > LIMIT)
        release_span(at);
    else
        join_spans(at);
}

/* ---- Small blocks ---- */

struct idle {
    struct idle *next;
};
static struct idle *idle_blocks[CLASSES];

/* The class of a size below LARGE, and the size of its blocks. */
static int size_class(size_t bytes, size_t *rounded) {
    int index = 0;
    size_t power = SMALLEST;
    for (; power * 2 <= bytes; power *= 2) index += STEPS;
    size_t step = power / STEPS;
    size_t extra = bytes <= power ? 0 : (bytes - power + step - 1) / step;
    *rounded = power + extra * step;
    return index + (int)extra;
}

static void *take_small(size_t bytes) {
    size_t rounded;
    int class = size_class(bytes, &rounded);
    lock_pool();
    struct idle *block = idle_blocks[class];
    if (block) {
        idle_blocks[class] = block->next;
        idle_bytes -= rounded;
    }
    unlock_pool();
    void *fresh = NULL;
    return block || posix_memalign(&fresh, ALIGNMENT, rounded) ? block : fresh;
}

static void give_small(void *block, size_t bytes) {
    size_t rounded;
    int class = size_class(bytes, &rounded);
    lock_pool();
    int keep = idle_bytes <= LIMIT - rounded;
    if (keep) {
        struct idle *entry = block;
        entry->next = idle_blocks[class];
        idle_blocks[class] = entry;
        idle_bytes += rounded;
    }
    unlock_pool();
    if (!keep) free(block);
}

/* ---- The interface ---- */

static void *take(size_t bytes) {
    if (bytes < LARGE) return take_small(bytes);
    lock_pool();
    void *block = take_span(span_size(bytes));
    unlock_pool();
    return block;
}

void *pyconv_alloc(size_t bytes) {
    if (bytes > (size_t)PTRDIFF_MAX / 2) return NULL;
    void *block = take(bytes);
    if (block) return block;
    pyconv_trim();
    return take(bytes);
}

void pyconv_free(void *block, size_t bytes) {
    if (!block) return;
    if (bytes < LARGE) {
        give_small(block, bytes);
        return;
    }
    lock_pool();
    give_span(block);
    unlock_pool();
}

void pyconv_trim(void) {
    struct idle *blocks[CLASSES];
    lock_pool();
    memcpy(blocks, idle_blocks, sizeof blocks);
    memset(idle_blocks, 0, sizeof idle_blocks);
    for (size_t at = span_count; at-- > 0;)
        if (spans[at].idle) release_span(at);
    idle_bytes = 0;
    unlock_pool();
    for (int class = 0; class < CLASSES; class++)
        for (struct idle *block = blocks[class], *next; block; block = next) {
            next = block->next;
            free(block);
        }
}

size_t pyconv_idle_bytes(void) { return idle_bytes; }
