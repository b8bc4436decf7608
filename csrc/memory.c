/* A pool of memory blocks.
 *
 * Fresh memory is expensive: a fresh 64 MB array costs 6 ms of page faults over reusing one. So blocks
 * that are given back are kept for the next caller of the same size class, up to LIMIT bytes in all.
 * Size classes are eight steps to a doubling, so at most an eighth of a block is wasted.
 */
#include "pyconv.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)
#define LIMIT ((size_t)1 << 30)
#define STEPS 8                 /* size classes to a doubling */
#define SMALLEST ((size_t)1024) /* bytes of the first class */
#define CLASSES (STEPS * 54)

struct idle {
    struct idle *next;
};
static struct idle *idle_blocks[CLASSES];
static size_t idle_bytes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_pool(void) { pthread_mutex_lock(&lock); }
static void unlock_pool(void) { pthread_mutex_unlock(&lock); }

/* A fork() while another thread holds the lock would leave it locked in the child for ever. */
__attribute__((constructor)) static void watch_fork(void) {
    pthread_atfork(lock_pool, unlock_pool, unlock_pool);
}

/* The class of a size, and the size of its blocks; -1 where the size can't be rounded up. */
static int size_class(size_t bytes, size_t *rounded) {
    if (bytes > (size_t)PTRDIFF_MAX / 2) return -1;
    int index = 0;
    size_t power = SMALLEST;
    for (; power * 2 <= bytes; power *= 2) index += STEPS;
    size_t step = power / STEPS;
    size_t extra = bytes <= power ? 0 : (bytes - power + step - 1) / step;
    *rounded = power + extra * step;
    return index + (int)extra;
}

static void *fresh_block(size_t bytes) {
    void *block = NULL;
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    if (posix_memalign(&block, alignment, bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE_PAGE) madvise(block, bytes & ~(HUGE_PAGE - 1), MADV_HUGEPAGE);
#endif
    return block;
}

void *pyconv_alloc(size_t bytes) {
    size_t rounded;
    int class = size_class(bytes, &rounded);
    if (class < 0) return NULL;
    lock_pool();
    struct idle *block = idle_blocks[class];
    if (block) {
        idle_blocks[class] = block->next;
        idle_bytes -= rounded;
    }
    unlock_pool();
    if (block) return block;
    void *fresh = fresh_block(rounded);
    if (fresh) return fresh;
    pyconv_trim();
    return fresh_block(rounded);
}

void pyconv_free(void *block, size_t bytes) {
    size_t rounded;
    int class = size_class(bytes, &rounded);
    if (!block || class < 0) return;
    lock_pool();
    int keep = rounded <= LIMIT && idle_bytes <= LIMIT - rounded;
    if (keep) {
        struct idle *entry = block;
        entry->next = idle_blocks[class];
        idle_blocks[class] = entry;
        idle_bytes += rounded;
    }
    unlock_pool();
    if (!keep) free(block);
}

void pyconv_trim(void) {
    struct idle *blocks[CLASSES];
    lock_pool();
    memcpy(blocks, idle_blocks, sizeof blocks);
    memset(idle_blocks, 0, sizeof idle_blocks);
    idle_bytes = 0;
    unlock_pool();
    for (int class = 0; class < CLASSES; class++)
        for (struct idle *block = blocks[class], *next; block; block = next) {
            next = block->next;
            free(block);
        }
}

size_t pyconv_idle_bytes(void) { return idle_bytes; }
