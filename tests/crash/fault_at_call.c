/* Kills its process at a chosen call that changes a file, or has the call fail.
 *
 *   cc -shared -fPIC -O2 -o fault_at_call.so fault_at_call.c -ldl
 *   LD_PRELOAD=./fault_at_call.so python ...
 *   faults = ctypes.CDLL(None)
 *   faults.fault_arm(5, 5, KILLS, 0, ALL, "")               SIGKILL in place of the 5th call from now on
 *   faults.fault_arm(5, 0, FAILS, EIO, FLUSHES, b"/log.mdb")  from the 5th flush of such a file on, all fail
 *   faults.fault_arm(0, 0, 0, 0, ALL, b"")                  no fault; counts
 *   faults.fault_calls()                                    calls of these kinds and files since it was armed
 *   faults.fault_fired()                                    how many of them were struck
 *
 * From the first to the last call (0: without an end) of the kinds on files whose path holds the given text,
 * a fault that does not kill meets regular files and directories only: no pipe says ENOSPC. One that kills
 * meets sockets and pipes, too: a death between a commit and a ring is one of the moments to look at.
 * A forked child inherits the state. What goes through a shared map makes no call and is not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* crash/faults.py has the same numbers. */
enum { WRITES = 1, FLUSHES = 2, NAMES = 4 };
enum {
    NOTHING,
    KILLS,            /* in place of the call */
    TEARS_AND_KILLS,  /* the same, but the first half of a long write is made */
    FAILS,            /* in place of the call */
    FAILS_SHORT,      /* the first half of a long write is made, and is what the call returns */
    FAILS_AFTER,      /* the call is made, and yet it fails: as a write through O_DSYNC may */
};

enum { PAGE = 4096 };

static long first_call, last_call, calls, fired;
static int fault, error_number, chosen_kinds;
static char where[256];

void fault_arm(long first, long last, int what, int error, int kinds, const char *text) {
    fault = NOTHING;
    strncpy(where, text, sizeof where - 1);
    calls = fired = 0;
    first_call = first;
    last_call = last;
    error_number = error;
    chosen_kinds = kinds;
    fault = what;
}

long fault_calls(void) {
    return calls;
}

long fault_fired(void) {
    return fired;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static int kills(void) {
    return fault == KILLS || fault == TEARS_AND_KILLS;
}

/* What to do with this call. */
static int strike(void) {
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (!fault || !first_call || number < first_call || (last_call && number > last_call))
        return NOTHING;
    __atomic_add_fetch(&fired, 1, __ATOMIC_SEQ_CST);
    return fault;
}

static int on_path(int kind, const char *path) {
    return kind & chosen_kinds && strstr(path, where) ? strike() : NOTHING;
}

static int on_fd(int kind, int fd) {
    char link[64], path[PATH_MAX];
    struct stat found;
    ssize_t size;

    if (!(kind & chosen_kinds))
        return NOTHING;
    if (!kills() && (fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode))))
        return NOTHING;
    if (!where[0])
        return strike();
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return NOTHING;
    path[size] = 0;
    return on_path(kind, path);
}

static int on_map(int kind, void *start) {
    char line[PATH_MAX + 128];
    unsigned long from, to;
    int held = NOTHING;
    FILE *maps;

    if (!(kind & chosen_kinds))
        return NOTHING;
    if (!where[0])
        return strike();
    maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from <= (unsigned long)start && (unsigned long)start < to) {
            held = on_path(kind, line);
            break;
        }
    if (maps)
        fclose(maps);
    return held;
}

/* The kernel looks for a SIGKILL, and for room, between pages: so a write is cut at the end of one. */
static size_t half(size_t size) {
    return size / 2 / PAGE * PAGE;
}

static long failed(void) {
    errno = error_number;
    return -1;
}

#define REAL(type, name, parameters)                                   \
    static type(*real) parameters;                                     \
    if (!real)                                                         \
        real = (type(*) parameters)dlsym(RTLD_NEXT, name)

/* A write: `made` is the call, `made_half` its first half (0 or less: nothing). */
#define STRUCK_WRITE(fd, made, made_half)                              \
    switch (on_fd(WRITES, fd)) {                                       \
    case KILLS:                                                        \
        die();                                                         \
    case TEARS_AND_KILLS:                                              \
        (void)(made_half);                                             \
        die();                                                         \
    case FAILS:                                                        \
        return failed();                                               \
    case FAILS_SHORT: {                                                \
        ssize_t size_made = (made_half);                               \
        return size_made > 0 ? size_made : failed();                   \
    }                                                                  \
    case FAILS_AFTER:                                                  \
        (void)!(made);                                                 \
        return failed();                                               \
    }                                                                  \
    return made

/* Any other call; `told` is how it tells of its failure. */
#define STRUCK(struck, made, told)                                     \
    switch (struck) {                                                  \
    case KILLS:                                                        \
    case TEARS_AND_KILLS:                                              \
        die();                                                         \
    case FAILS_AFTER:                                                  \
        (void)!(made);                                                 \
        return told;                                                   \
    case FAILS:                                                        \
    case FAILS_SHORT:                                                  \
        return told;                                                   \
    }                                                                  \
    return made

#define CALL(name, parameters, arguments, struck, told)                \
    int name parameters {                                              \
        REAL(int, #name, parameters);                                  \
        STRUCK(struck, real arguments, told);                          \
    }

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(ssize_t, "write", (int, const void *, size_t));
    STRUCK_WRITE(fd, real(fd, bytes, size), half(size) ? real(fd, bytes, half(size)) : 0);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite", (int, const void *, size_t, off_t));
    STRUCK_WRITE(fd, real(fd, bytes, size, offset), half(size) ? real(fd, bytes, half(size), offset) : 0);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
    REAL(ssize_t, "pwrite64", (int, const void *, size_t, off64_t));
    STRUCK_WRITE(fd, real(fd, bytes, size, offset), half(size) ? real(fd, bytes, half(size), offset) : 0);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", (int, const struct iovec *, int));
    STRUCK_WRITE(fd, real(fd, parts, count), count > 1 ? real(fd, parts, count / 2) : 0);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    REAL(ssize_t, "pwritev", (int, const struct iovec *, int, off_t));
    STRUCK_WRITE(fd, real(fd, parts, count, offset), count > 1 ? real(fd, parts, count / 2, offset) : 0);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    REAL(ssize_t, "pwritev64", (int, const struct iovec *, int, off64_t));
    STRUCK_WRITE(fd, real(fd, parts, count, offset), count > 1 ? real(fd, parts, count / 2, offset) : 0);
}

CALL(ftruncate, (int fd, off_t size), (fd, size), on_fd(WRITES, fd), failed())
CALL(ftruncate64, (int fd, off64_t size), (fd, size), on_fd(WRITES, fd), failed())
CALL(posix_fallocate, (int fd, off_t start, off_t size), (fd, start, size), on_fd(WRITES, fd), error_number)
CALL(posix_fallocate64, (int fd, off64_t start, off64_t size), (fd, start, size), on_fd(WRITES, fd), error_number)
CALL(fsync, (int fd), (fd), on_fd(FLUSHES, fd), failed())
CALL(fdatasync, (int fd), (fd), on_fd(FLUSHES, fd), failed())
CALL(msync, (void *start, size_t size, int flags), (start, size, flags), on_map(FLUSHES, start), failed())
CALL(rename, (const char *from, const char *to), (from, to), on_path(NAMES, to), failed())
CALL(renameat, (int from_fd, const char *from, int to_fd, const char *to), (from_fd, from, to_fd, to), on_path(NAMES, to), failed())
CALL(unlink, (const char *path), (path), on_path(NAMES, path), failed())
CALL(unlinkat, (int fd, const char *path, int flags), (fd, path, flags), on_path(NAMES, path), failed())
CALL(link, (const char *from, const char *to), (from, to), on_path(NAMES, to), failed())
CALL(mkdir, (const char *path, mode_t mode), (path, mode), on_path(NAMES, path), failed())
CALL(mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), on_path(NAMES, path), failed())
CALL(mkfifo, (const char *path, mode_t mode), (path, mode), on_path(NAMES, path), failed())
CALL(mkfifoat, (int fd, const char *path, mode_t mode), (fd, path, mode), on_path(NAMES, path), failed())
CALL(flock, (int fd, int operation), (fd, operation), kills() ? on_fd(NAMES, fd) : NOTHING, failed())

/* Making a file; opening one that is there changes nothing. */
static int making(const char *path, int flags) {
    return flags & O_CREAT && access(path, F_OK) ? on_path(NAMES, path) : NOTHING;
}

#define MODE                                                           \
    mode_t mode = 0;                                                   \
    if (flags & O_CREAT) {                                             \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode = va_arg(more, mode_t);                                   \
        va_end(more);                                                  \
    }

int open(const char *path, int flags, ...) {
    REAL(int, "open", (const char *, int, mode_t));
    MODE
    STRUCK(making(path, flags), real(path, flags, mode), failed());
}

int open64(const char *path, int flags, ...) {
    REAL(int, "open64", (const char *, int, mode_t));
    MODE
    STRUCK(making(path, flags), real(path, flags, mode), failed());
}
