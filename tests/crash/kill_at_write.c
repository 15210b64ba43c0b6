/* Kills its process at a chosen call that changes a file.
 *
 *   cc -shared -fPIC -O2 -o kill_at_write.so kill_at_write.c -ldl
 *   LD_PRELOAD=./kill_at_write.so python ...
 *   ctypes.CDLL(None).kill_at_write_arm(5, 0)    SIGKILL in place of the 5th call from now on
 *   ctypes.CDLL(None).kill_at_write_arm(5, 1)    the same, but the first half of a long write is made
 *   ctypes.CDLL(None).kill_at_write_calls()      calls counted since it was armed
 *
 * A counter of 0 (the start) never kills. A forked child inherits the state. Writes
 * to sockets and pipes count, too: a death between a commit and a ring is one of the
 * moments to look at. What goes through a shared map makes no call and is not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096 };

static long fatal_call, calls;
static int half;

void kill_at_write_arm(long call, int tear) {
    calls = 0;
    fatal_call = call;
    half = tear;
}

long kill_at_write_calls(void) {
    return calls;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* True for the call at which to die. */
static int fatal(void) {
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    return fatal_call && number == fatal_call;
}

/* The kernel looks for a SIGKILL between pages, so a write is cut at the end of one. */
static size_t torn(size_t size) {
    return half ? size / 2 / PAGE * PAGE : 0;
}

#define REAL(type, name, parameters)                                   \
    static type(*real) parameters;                                     \
    if (!real)                                                         \
        real = (type(*) parameters)dlsym(RTLD_NEXT, name)

#define DIES_BEFORE(type, name, parameters, arguments)                 \
    type name parameters {                                             \
        REAL(type, #name, parameters);                                 \
        if (fatal())                                                   \
            die();                                                     \
        return real arguments;                                         \
    }

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", (int, const void *, size_t));
    if (fatal()) {
        if (torn(size))
            real(fd, data, torn(size));
        die();
    }
    return real(fd, data, size);
}

static ssize_t pwrite_with(ssize_t (*real)(int, const void *, size_t, off_t), int fd, const void *data, size_t size, off_t offset) {
    if (fatal()) {
        if (torn(size))
            real(fd, data, torn(size), offset);
        die();
    }
    return real(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite", (int, const void *, size_t, off_t));
    return pwrite_with(real, fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite64", (int, const void *, size_t, off_t));
    return pwrite_with(real, fd, data, size, offset);
}

static ssize_t pwritev_with(ssize_t (*real)(int, const struct iovec *, int, off_t), int fd, const struct iovec *parts, int count, off_t offset) {
    if (fatal()) {
        if (half && count > 1)
            real(fd, parts, count / 2, offset);
        die();
    }
    return real(fd, parts, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    REAL(ssize_t, "pwritev", (int, const struct iovec *, int, off_t));
    return pwritev_with(real, fd, parts, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    REAL(ssize_t, "pwritev64", (int, const struct iovec *, int, off_t));
    return pwritev_with(real, fd, parts, count, offset);
}

DIES_BEFORE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
DIES_BEFORE(int, fsync, (int fd), (fd))
DIES_BEFORE(int, fdatasync, (int fd), (fd))
DIES_BEFORE(int, msync, (void *start, size_t size, int flags), (start, size, flags))
DIES_BEFORE(int, ftruncate, (int fd, off_t size), (fd, size))
DIES_BEFORE(int, ftruncate64, (int fd, off_t size), (fd, size))
DIES_BEFORE(int, posix_fallocate, (int fd, off_t start, off_t size), (fd, start, size))
DIES_BEFORE(int, posix_fallocate64, (int fd, off_t start, off_t size), (fd, start, size))
DIES_BEFORE(int, rename, (const char *from, const char *to), (from, to))
DIES_BEFORE(int, renameat, (int from_fd, const char *from, int to_fd, const char *to), (from_fd, from, to_fd, to))
DIES_BEFORE(int, unlink, (const char *path), (path))
DIES_BEFORE(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags))
DIES_BEFORE(int, link, (const char *from, const char *to), (from, to))
DIES_BEFORE(int, mkdir, (const char *path, mode_t mode), (path, mode))
DIES_BEFORE(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode))
DIES_BEFORE(int, mkfifo, (const char *path, mode_t mode), (path, mode))
DIES_BEFORE(int, mkfifoat, (int fd, const char *path, mode_t mode), (fd, path, mode))
DIES_BEFORE(int, flock, (int fd, int operation), (fd, operation))
