/* Preloaded by flushes.py: each flush is a sleep of FLUSH_MICROSECONDS, so that a store in memory (tmpfs) is as slow as on
 * a disk without neighbours, and always equally so. A write to a file that was opened with O_DSYNC is a flush as well. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static struct timespec flush;
static ssize_t (*write_at)(int, const void *, size_t, off64_t);

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FLUSH_MICROSECONDS");
    flush.tv_nsec = (text ? atol(text) : 0) * 1000;
    write_at = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
}

static int flushed(void) {
    static __thread int exact;
    if (!exact) {
        prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0); /* else a sleep takes 50 us longer */
        exact = 1;
    }
    nanosleep(&flush, NULL);
    return 0;
}

int fdatasync(int fd) { return (void)fd, flushed(); }

int fsync(int fd) { return (void)fd, flushed(); }

int msync(void *at, size_t size, int how) { return (void)at, (void)size, how & MS_SYNC ? flushed() : 0; }

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    ssize_t done = write_at(fd, bytes, size, at);
    if (fcntl(fd, F_GETFL) & O_DSYNC) flushed();
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { return pwrite64(fd, bytes, size, at); }
