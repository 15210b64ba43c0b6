/* Records what processes ask of the files of one directory: what is written, what is flushed, in which order.
 *
 *   cc -shared -fPIC -O2 -o recorder.so recorder.c -ldl -lpthread
 *   LD_PRELOAD=./recorder.so python ...
 *   ctypes.CDLL(None).power_record("/real/path/of/store", "/path/of/records", 0)   from now on, also in forked children
 *   ctypes.CDLL(None).power_mark(1, 7)           what the program has to say, in its place among the records
 *   ctypes.CDLL(None).power_kill_at(5, 0)        SIGKILL in place of the 5th recorded call from now on
 *   ctypes.CDLL(None).power_kill_at(5, 1)        the same, but the first half of a long write is made
 *   ctypes.CDLL(None).power_calls()              calls counted since
 *
 * Watched are the regular files in the directory itself, not those in folders below it, and none whose
 * name ends with "lock": these need not outlive the machine. If the last argument of power_record is 1, the folders in
 * the directory and the regular files in them are watched, too; names are then paths such as "app/log.mdb".
 *
 * A record: op u8, flags u8, 0 u16, pid u32, inode u64, offset u64, length u64; then so many bytes of data.
 *   C  the name in the data now stands for the inode (flags 1: the file is new)
 *   R  the first name of the data (they end with 0) was renamed to the second
 *   U  the name in the data was removed
 *   K  the name in the data is that of a new folder
 *   D  the directory was flushed, or the folder in it that the data names
 *   W  the data was written at the offset (flags 1: and was durable on return)
 *   L  the length was set to the offset
 *   A  blocks were set aside from the offset on, so many bytes as the data (u64) says
 *   F  the file was flushed (flags 1: only from the offset on, so many bytes as the data (u64) says)
 *   P  a page that is mapped shared and writable was found changed: the kernel may write it at any time
 *   M  a mark: flags is its kind, offset its number
 *
 * Pages of maps are looked at with each other record, and when the file is locked or unlocked with flock; before a file is
 * flushed, all pages of it that the process has mapped. What changes twice in between is seen once. A call and its record are made under one lock, so the order of the
 * records is that of the calls, of whatever thread or process. A call that cannot be recorded aborts the process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, MAPS = 64 };

struct map {
    char *base, *shadow;
    size_t length;
    off_t offset;
    uint64_t inode;
    int file; /* opened with O_PATH: closing it lets go of no lock of the process */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char store[PATH_MAX], records[PATH_MAX];
static int out = -1;
static long fatal_call, calls;
static int half, depth;
static struct map maps[MAPS];

/* ---------------------------------------------------------------- the real calls */
#define REAL(type, name, parameters)                                   \
    static type(*real) parameters;                                     \
    if (!real)                                                         \
        real = (type(*) parameters)dlsym(RTLD_NEXT, name)

static void fail(const char *why) {
    dprintf(2, "recorder: %s (errno %d)\n", why, errno);
    abort();
}

/* ---------------------------------------------------------------- the records */
static void open_records(void) {
    out = (int)syscall(SYS_openat, AT_FDCWD, records, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (out < 0)
        fail("cannot open the records");
}

static void lock(void) {
    pthread_mutex_lock(&mutex);
    while (syscall(SYS_flock, out, LOCK_EX))
        if (errno != EINTR)
            fail("cannot lock the records");
}

static void unlock(void) {
    syscall(SYS_flock, out, LOCK_UN);
    pthread_mutex_unlock(&mutex);
}

static void record(char op, int flags, uint64_t inode, uint64_t offset, const void *data, uint64_t length) {
    char head[32] = {op, (char)flags};
    uint32_t pid = (uint32_t)getpid();
    memcpy(head + 4, &pid, 4);
    memcpy(head + 8, &inode, 8);
    memcpy(head + 16, &offset, 8);
    memcpy(head + 24, &length, 8);
    struct iovec parts[2] = {{head, sizeof head}, {(void *)data, length}};
    if (syscall(SYS_writev, out, parts, length ? 2 : 1) != (ssize_t)(sizeof head + length))
        fail("cannot write a record");
}

static void before_fork(void) {
    pthread_mutex_lock(&mutex);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&mutex);
}

static void after_fork_in_child(void) {
    pthread_mutex_init(&mutex, NULL);
    fatal_call = 0;
    if (out >= 0) { /* an flock belongs to the open file, which the parent shares */
        syscall(SYS_close, out);
        open_records();
    }
}

void power_record(const char *directory, const char *file, int folders) {
    if (out >= 0)
        fail("records already");
    snprintf(store, sizeof store, "%s", directory);
    snprintf(records, sizeof records, "%s", file);
    depth = folders;
    open_records();
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---------------------------------------------------------------- what is watched */
/* The name of a path inside the directory; NULL where it is not one that is watched. */
static const char *name_in_store(const char *path) {
    size_t length = strlen(store), size;
    if (out < 0 || strncmp(path, store, length) || path[length] != '/' || !path[length + 1])
        return NULL;
    const char *name = path + length + 1;
    size = strlen(name);
    const char *slash = strchr(name, '/');
    int too_deep = slash && (!depth || strchr(slash + 1, '/'));
    return too_deep || (size >= 4 && !strcmp(name + size - 4, "lock")) ? NULL : name;
}

static int path_of(int fd, char *path) {
    char link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    errno = saved;
    path[size < 0 ? 0 : size] = 0;
    return size >= 0;
}

/* The inode of a watched regular file; 0 of all else. */
static uint64_t watched(int fd) {
    char path[PATH_MAX];
    struct stat found;
    int saved = errno;
    if (out < 0 || fd < 0 || !path_of(fd, path) || !name_in_store(path))
        return 0;
    uint64_t inode = !fstat(fd, &found) && S_ISREG(found.st_mode) ? found.st_ino : 0;
    errno = saved;
    return inode;
}

/* The name of a watched folder, or "" of the directory itself; NULL of all else. */
static const char *folder(int fd, char *path) {
    if (out < 0 || !path_of(fd, path))
        return NULL;
    if (!strcmp(path, store))
        return "";
    const char *name = depth ? name_in_store(path) : NULL;
    return name && !strchr(name, '/') ? name : NULL;
}

/* The real path of a name that may not exist, by that of its directory. */
static const char *resolved(int directory, const char *path, char *whole) {
    char parent[PATH_MAX], base[PATH_MAX];
    if (out < 0)
        return NULL;
    const char *slash = strrchr(path, '/');
    if (slash && slash - path >= PATH_MAX)
        return NULL;
    if (path[0] != '/' && directory != AT_FDCWD) {
        if (!path_of(directory, base))
            return NULL;
    } else {
        base[0] = 0;
    }
    int written;
    if (!slash)
        written = snprintf(parent, sizeof parent, "%s", base[0] ? base : ".");
    else if (path[0] == '/' || !base[0])
        written = snprintf(parent, sizeof parent, "%.*s", (int)(slash == path ? 1 : slash - path), path);
    else
        written = snprintf(parent, sizeof parent, "%s/%.*s", base, (int)(slash - path), path);
    if (written >= (int)sizeof parent || !realpath(parent, whole))
        return NULL;
    size_t length = strlen(whole);
    if (length + 2 + strlen(slash ? slash + 1 : path) >= PATH_MAX)
        return NULL;
    whole[length] = '/';
    strcpy(whole + length + 1, slash ? slash + 1 : path);
    return name_in_store(whole);
}

/* ---------------------------------------------------------------- maps */
/* What this process has not touched has no entry in its page tables, and was changed by others, who look, too. whole:
 * look at that as well. */
static void look_at(struct map *map, int whole) {
    enum { CHUNK = 512 };
    static uint64_t entries[CHUNK];
    struct stat found;
    if (fstat(map->file, &found))
        fail("cannot look at a mapped file");
    size_t length = found.st_size > map->offset ? (size_t)(found.st_size - map->offset) : 0;
    if (length > map->length)
        length = map->length;
    int tables = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (size_t at = 0; at < length; at += PAGE) {
        size_t place = at / PAGE % CHUNK;
        if (!place) {
            off_t start = (off_t)((uintptr_t)(map->base + at) / PAGE * sizeof entries[0]);
            if (whole || tables < 0 || syscall(SYS_pread64, tables, entries, sizeof entries, start) != sizeof entries)
                memset(entries, 0xff, sizeof entries); /* unknown: look at all */
        }
        if (entries[place] >> 62 && memcmp(map->base + at, map->shadow + at, PAGE)) { /* present, or swapped out */
            memcpy(map->shadow + at, map->base + at, PAGE);
            record('P', 0, map->inode, map->offset + at, map->shadow + at, PAGE);
        }
    }
    if (tables >= 0)
        syscall(SYS_close, tables);
}

static void look(void) {
    for (int i = 0; i < MAPS; i++)
        if (maps[i].base)
            look_at(&maps[i], 0);
}

/* Before a file is flushed: also what others have stored in it and not looked at yet. */
static void look_whole(uint64_t inode) {
    for (int i = 0; i < MAPS; i++)
        if (maps[i].base && maps[i].inode == inode)
            look_at(&maps[i], 1);
}

static void add_map(char *base, size_t length, int fd, uint64_t inode, off_t offset) {
    char link[64];
    int i = 0;
    while (i < MAPS && maps[i].base)
        i++;
    if (i == MAPS)
        fail("too many maps");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int file = (int)syscall(SYS_openat, AT_FDCWD, link, O_PATH | O_CLOEXEC);
    struct stat found;
    if (file < 0 || fstat(file, &found))
        fail("cannot hold a mapped file");
    size_t whole = (length + PAGE - 1) / PAGE * PAGE;
    char *shadow = (char *)syscall(SYS_mmap, NULL, whole, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (shadow == MAP_FAILED)
        fail("no memory for the copy of a map");
    for (size_t at = 0; at < whole && offset + (off_t)at < found.st_size; at += PAGE)
        if (memcmp(shadow + at, base + at, PAGE)) /* shadow is still zero: leave it without memory where it can be */
            memcpy(shadow + at, base + at, PAGE);
    maps[i] = (struct map){base, shadow, whole, offset, inode, file};
}

static void *mapped(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    uint64_t inode = fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED) ? watched(fd) : 0;
    REAL(void *, "mmap64", (void *, size_t, int, int, int, off_t));
    if (!inode)
        return real(address, length, protection, flags, fd, offset);
    lock();
    void *base = real(address, length, protection, flags, fd, offset);
    int saved = errno;
    if (base != MAP_FAILED)
        add_map(base, length, fd, inode, offset);
    unlock();
    errno = saved;
    return base;
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mapped(address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mapped(address, length, protection, flags, fd, offset);
}

int munmap(void *address, size_t length) {
    REAL(int, "munmap", (void *, size_t));
    if (out >= 0) {
        lock();
        for (int i = 0; i < MAPS; i++) {
            if (maps[i].base == address) {
                look_at(&maps[i], 0);
                syscall(SYS_munmap, maps[i].shadow, maps[i].length);
                syscall(SYS_close, maps[i].file);
                maps[i].base = NULL;
            }
        }
        unlock();
    }
    return real(address, length);
}

/* ---------------------------------------------------------------- marks and deaths */
void power_mark(int kind, long number) {
    if (out < 0)
        return;
    lock();
    look();
    record('M', kind, 0, (uint64_t)number, NULL, 0);
    unlock();
}

void power_kill_at(long call, int tear) {
    calls = 0;
    fatal_call = call;
    half = tear;
}

long power_calls(void) {
    return calls;
}

static int fatal(void) {
    look();
    return ++calls == fatal_call;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Begin a call that is recorded. */
static void enter(void) {
    lock();
    if (fatal())
        die();
}

static void leave(void) {
    int saved = errno;
    unlock();
    errno = saved;
}

/* ---------------------------------------------------------------- writes */
static int is_durable(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_DSYNC) ? 1 : 0;
}

static void record_parts(int durable, uint64_t inode, off_t offset, const struct iovec *parts, int count, ssize_t size) {
    int saved = errno;
    for (int i = 0; size > 0 && i < count; i++) {
        size_t length = parts[i].iov_len < (size_t)size ? parts[i].iov_len : (size_t)size;
        if (length)
            record('W', durable, inode, (uint64_t)offset, parts[i].iov_base, length);
        offset += (off_t)length;
        size -= (ssize_t)length;
    }
    errno = saved;
}

/* offset < 0: where the descriptor stands */
static ssize_t recorded(int fd, uint64_t inode, const struct iovec *parts, int count, off_t offset, int flags) {
    lock();
    int dies = fatal();
    struct iovec cut[1];
    if (dies) {
        if (!half)
            die();
        if (count > 1) {
            count /= 2;
        } else { /* the kernel looks for a SIGKILL between pages */
            cut[0] = (struct iovec){parts[0].iov_base, parts[0].iov_len / 2 / PAGE * PAGE};
            parts = cut;
        }
    }
    int in_place = offset < 0;
    if (in_place) {
        struct stat found;
        offset = lseek(fd, 0, SEEK_CUR);
        if (fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &found))
            offset = found.st_size;
    }
    ssize_t size = in_place ? syscall(SYS_writev, fd, parts, count)
                            : syscall(SYS_pwritev2, fd, parts, count, (long)offset, (long)0, flags);
    record_parts(is_durable(fd) || (flags & (RWF_DSYNC | RWF_SYNC)), inode, offset, parts, count, size);
    if (dies)
        die();
    leave();
    return size;
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", (int, const void *, size_t));
    uint64_t inode = watched(fd);
    struct iovec part = {(void *)data, size};
    return inode ? recorded(fd, inode, &part, 1, -1, 0) : real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", (int, const struct iovec *, int));
    uint64_t inode = watched(fd);
    return inode ? recorded(fd, inode, parts, count, -1, 0) : real(fd, parts, count);
}

#define PWRITE(name)                                                                              \
    ssize_t name(int fd, const void *data, size_t size, off_t offset) {                           \
        REAL(ssize_t, #name, (int, const void *, size_t, off_t));                                 \
        uint64_t inode = watched(fd);                                                             \
        struct iovec part = {(void *)data, size};                                                 \
        return inode ? recorded(fd, inode, &part, 1, offset, 0) : real(fd, data, size, offset);   \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name)                                                                             \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t offset) {                    \
        REAL(ssize_t, #name, (int, const struct iovec *, int, off_t));                            \
        uint64_t inode = watched(fd);                                                             \
        return inode ? recorded(fd, inode, parts, count, offset, 0) : real(fd, parts, count, offset); \
    }
PWRITEV(pwritev)
PWRITEV(pwritev64)

#define PWRITEV2(name)                                                                            \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t offset, int flags) {         \
        REAL(ssize_t, #name, (int, const struct iovec *, int, off_t, int));                       \
        uint64_t inode = watched(fd);                                                             \
        return inode ? recorded(fd, inode, parts, count, offset, flags) : real(fd, parts, count, offset, flags); \
    }
PWRITEV2(pwritev2)
PWRITEV2(pwritev64v2)

/* The kernel copied: what it was is read back. */
static void record_copied(int fd, uint64_t inode, off_t offset, ssize_t size) {
    char link[64], *data = size > 0 ? malloc((size_t)size) : NULL;
    if (size <= 0)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int in = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
    if (!data || in < 0 || syscall(SYS_pread64, in, data, size, offset) != size)
        fail("cannot read back what was copied");
    record('W', is_durable(fd), inode, (uint64_t)offset, data, (uint64_t)size);
    syscall(SYS_close, in);
    free(data);
}

#define SENDFILE(name)                                                                            \
    ssize_t name(int to, int from, off_t *position, size_t size) {                                \
        REAL(ssize_t, #name, (int, int, off_t *, size_t));                                        \
        uint64_t inode = watched(to);                                                             \
        if (!inode)                                                                               \
            return real(to, from, position, size);                                                \
        enter();                                                                                  \
        off_t offset = lseek(to, 0, SEEK_CUR);                                                    \
        ssize_t copied = real(to, from, position, size);                                          \
        record_copied(to, inode, offset, copied);                                                 \
        leave();                                                                                  \
        return copied;                                                                            \
    }
SENDFILE(sendfile)
SENDFILE(sendfile64)

ssize_t copy_file_range(int from, off64_t *read_at, int to, off64_t *write_at, size_t size, unsigned flags) {
    REAL(ssize_t, "copy_file_range", (int, off64_t *, int, off64_t *, size_t, unsigned));
    uint64_t inode = watched(to);
    if (!inode)
        return real(from, read_at, to, write_at, size, flags);
    enter();
    off_t offset = write_at ? *write_at : lseek(to, 0, SEEK_CUR);
    ssize_t copied = real(from, read_at, to, write_at, size, flags);
    record_copied(to, inode, offset, copied);
    leave();
    return copied;
}

/* ---------------------------------------------------------------- lengths */
#define FTRUNCATE(name)                                                                           \
    int name(int fd, off_t size) {                                                                \
        REAL(int, #name, (int, off_t));                                                           \
        uint64_t inode = watched(fd);                                                             \
        if (!inode)                                                                               \
            return real(fd, size);                                                                \
        enter();                                                                                  \
        int result = real(fd, size);                                                              \
        if (!result)                                                                              \
            record('L', 0, inode, (uint64_t)size, NULL, 0);                                       \
        leave();                                                                                  \
        return result;                                                                            \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define TRUNCATE(name)                                                                            \
    int name(const char *path, off_t size) {                                                      \
        REAL(int, #name, (const char *, off_t));                                                  \
        char whole[PATH_MAX];                                                                     \
        struct stat found;                                                                        \
        if (!resolved(AT_FDCWD, path, whole) || stat(path, &found))                               \
            return real(path, size);                                                              \
        enter();                                                                                  \
        int result = real(path, size);                                                            \
        if (!result)                                                                              \
            record('L', 0, found.st_ino, (uint64_t)size, NULL, 0);                                \
        leave();                                                                                  \
        return result;                                                                            \
    }
TRUNCATE(truncate)
TRUNCATE(truncate64)

#define POSIX_FALLOCATE(name)                                                                     \
    int name(int fd, off_t start, off_t size) {                                                   \
        REAL(int, #name, (int, off_t, off_t));                                                    \
        uint64_t inode = watched(fd), length = (uint64_t)size;                                    \
        if (!inode)                                                                               \
            return real(fd, start, size);                                                         \
        enter();                                                                                  \
        int result = real(fd, start, size);                                                       \
        if (!result)                                                                              \
            record('A', 0, inode, (uint64_t)start, &length, 8);                                   \
        leave();                                                                                  \
        return result;                                                                            \
    }
POSIX_FALLOCATE(posix_fallocate)
POSIX_FALLOCATE(posix_fallocate64)

#define FALLOCATE(name)                                                                           \
    int name(int fd, int mode, off_t start, off_t size) {                                         \
        REAL(int, #name, (int, int, off_t, off_t));                                               \
        uint64_t inode = watched(fd), length = (uint64_t)size;                                    \
        if (!inode || mode == FALLOC_FL_KEEP_SIZE)                                                \
            return real(fd, mode, start, size);                                                   \
        if (mode)                                                                                 \
            fail("a kind of fallocate that is not recorded");                                     \
        enter();                                                                                  \
        int result = real(fd, mode, start, size);                                                 \
        if (!result)                                                                              \
            record('A', 0, inode, (uint64_t)start, &length, 8);                                   \
        leave();                                                                                  \
        return result;                                                                            \
    }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

/* ---------------------------------------------------------------- flushes */
#define FLUSH(name)                                                                               \
    int name(int fd) {                                                                            \
        REAL(int, #name, (int));                                                                  \
        char path[PATH_MAX];                                                                      \
        uint64_t inode = watched(fd);                                                             \
        const char *name = inode ? NULL : folder(fd, path);                                       \
        if (!inode && !name)                                                                      \
            return real(fd);                                                                      \
        enter();                                                                                  \
        if (inode)                                                                                \
            look_whole(inode);                                                                    \
        int result = real(fd);                                                                    \
        if (!result)                                                                              \
            record(name ? 'D' : 'F', 0, inode, 0, name, name ? strlen(name) : 0);                 \
        leave();                                                                                  \
        return result;                                                                            \
    }
FLUSH(fsync)
FLUSH(fdatasync)

int msync(void *start, size_t size, int flags) {
    REAL(int, "msync", (void *, size_t, int));
    if (out < 0 || !(flags & MS_SYNC)) /* MS_ASYNC makes nothing durable */
        return real(start, size, flags);
    for (int i = 0; i < MAPS; i++) {
        char *base = maps[i].base;
        if (base && (char *)start >= base && (char *)start < base + maps[i].length) {
            uint64_t length = size;
            enter();
            int result = real(start, size, flags);
            if (!result)
                record('F', 1, maps[i].inode, (uint64_t)(maps[i].offset + ((char *)start - base)), &length, 8);
            leave();
            return result;
        }
    }
    return real(start, size, flags);
}

/* ---------------------------------------------------------------- names */
static int opened(int directory, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    struct stat found;
    const char *name = flags & (O_CREAT | O_TRUNC) ? resolved(directory, path, whole) : NULL;
    if (!name)
        return (int)syscall(SYS_openat, directory, path, flags | O_LARGEFILE, mode);
    enter();
    int existed = !stat(whole, &found);
    off_t size = existed ? found.st_size : 0;
    int fd = (int)syscall(SYS_openat, directory, path, flags | O_LARGEFILE, mode);
    if (fd >= 0 && !fstat(fd, &found)) {
        int saved = errno;
        if (!existed)
            record('C', 1, found.st_ino, 0, name, strlen(name));
        else if (flags & O_TRUNC && size)
            record('L', 0, found.st_ino, 0, NULL, 0);
        errno = saved;
    }
    leave();
    return fd;
}

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...) {                       \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                  \
        return opened(AT_FDCWD, path, flags, mode);                    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                   \
    int name(int directory, const char *path, int flags, ...) {        \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                  \
        return opened(directory, path, flags, mode);                   \
    }
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode) {
    return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

static int renamed(int from_fd, const char *from, int to_fd, const char *to) {
    char old[PATH_MAX], new[PATH_MAX], names[2 * PATH_MAX];
    const char *before = resolved(from_fd, from, old), *after = resolved(to_fd, to, new);
    if (!before && !after)
        return (int)syscall(SYS_renameat, from_fd, from, to_fd, to);
    if (!before || !after)
        fail("a rename into or out of the directory is not recorded");
    enter();
    int result = (int)syscall(SYS_renameat, from_fd, from, to_fd, to);
    if (!result) {
        size_t length = strlen(before) + 1;
        strcpy(names, before);
        strcpy(names + length, after);
        record('R', 0, 0, 0, names, length + strlen(after) + 1);
    }
    leave();
    return result;
}

int rename(const char *from, const char *to) {
    return renamed(AT_FDCWD, from, AT_FDCWD, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    return renamed(from_fd, from, to_fd, to);
}

static int linked(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    char whole[PATH_MAX];
    struct stat found;
    const char *name = resolved(to_fd, to, whole);
    if (!name)
        return (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
    enter();
    int result = (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
    if (!result && !stat(whole, &found))
        record('C', 0, found.st_ino, 0, name, strlen(name));
    leave();
    return result;
}

int link(const char *from, const char *to) {
    return linked(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    return linked(from_fd, from, to_fd, to, flags);
}

static int unlinked(int directory, const char *path, int flags) {
    char whole[PATH_MAX];
    const char *name = resolved(directory, path, whole);
    if (!name || (flags && (!depth || strchr(name, '/')))) /* of folders only those that are watched */
        return (int)syscall(SYS_unlinkat, directory, path, flags);
    enter();
    int result = (int)syscall(SYS_unlinkat, directory, path, flags);
    if (!result)
        record('U', 0, 0, 0, name, strlen(name));
    leave();
    return result;
}

int unlink(const char *path) {
    return unlinked(AT_FDCWD, path, 0);
}

int unlinkat(int directory, const char *path, int flags) {
    return unlinked(directory, path, flags);
}

int rmdir(const char *path) {
    return unlinked(AT_FDCWD, path, AT_REMOVEDIR);
}

static int made(int directory, const char *path, mode_t mode) {
    char whole[PATH_MAX];
    const char *name = depth ? resolved(directory, path, whole) : NULL;
    if (!name || strchr(name, '/'))
        return (int)syscall(SYS_mkdirat, directory, path, mode);
    enter();
    int result = (int)syscall(SYS_mkdirat, directory, path, mode);
    if (!result)
        record('K', 0, 0, 0, name, strlen(name));
    leave();
    return result;
}

int mkdir(const char *path, mode_t mode) {
    return made(AT_FDCWD, path, mode);
}

int mkdirat(int directory, const char *path, mode_t mode) {
    return made(directory, path, mode);
}

int remove(const char *path) {
    REAL(int, "remove", (const char *));
    char whole[PATH_MAX];
    return resolved(AT_FDCWD, path, whole) ? unlinked(AT_FDCWD, path, 0) : real(path);
}

/* ---------------------------------------------------------------- locks: the moments between which maps change */
int flock(int fd, int operation) {
    REAL(int, "flock", (int, int));
    if (watched(fd)) { /* the real call may wait, so not under our lock */
        enter();
        leave();
    }
    return real(fd, operation);
}
