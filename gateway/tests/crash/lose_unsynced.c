/* A layer under a process (LD_PRELOAD) that makes a power cut possible without one: before a write changes a regular
 * file, what it replaces is appended to a log, and a sync that has returned is noted there. After the process was
 * killed, the log says how every file looks if only what was synced came to the disk.
 *
 * Environment: MEED_LOSE_LOG the log; MEED_LOSE_WRITES bytes that may be written before the disk is full;
 * MEED_LOSE_SYNCS syncs that succeed before they fail; MEED_LOSE_LIES when syncs are to say that they succeeded and do
 * nothing, which a test must find out. While there is a file of the log's name with `.hold` behind it, no sync ends;
 * while there is one with `.fail`, none succeeds.
 *
 * What it does not lose: names of files (creation, renaming, removal), and writes by system calls that do not go
 * through the C library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* kind: 'W' a write follows: `offset`, `size` of the file before it, `length` bytes that it replaces.
 *       'N' a file of this inode is new: nothing that was said of the inode before counts.
 *       'S' a sync has returned; `offset` records were in the log when it began. */
struct record {
    uint64_t kind, inode, offset, size, length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_file = -1;
static uint64_t records;
static int64_t writes_left = -1, syncs_left = -1;
static int lies;
static char hold[4096], fail[4096];

/* Longest time that syncs are held, in milliseconds: a test that forgot them is seen. */
#define HOLD_MAX_MS 60000

/* Ends the process, because what it writes can no longer be noted, and says why where the process logs. */
static void give_up(const char *what) {
    char line[256];
    int length = snprintf(line, sizeof line, "the layer cannot %s: %s\n", what, strerror(errno));
    syscall(SYS_write, 2, line, length);
    _exit(99);
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MEED_LOSE_LOG");
    const char *writes = getenv("MEED_LOSE_WRITES"), *syncs = getenv("MEED_LOSE_SYNCS");
    if (path) log_file = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (path && log_file < 0) give_up("open its log");
    if (path) snprintf(hold, sizeof hold, "%s.hold", path);
    if (path) snprintf(fail, sizeof fail, "%s.fail", path);
    if (writes) writes_left = atoll(writes);
    if (syncs) syncs_left = atoll(syncs);
    lies = getenv("MEED_LOSE_LIES") != NULL;
}

static void append(const void *bytes, size_t length) {
    while (length > 0) {
        ssize_t written = syscall(SYS_write, log_file, bytes, length);
        if (written <= 0) give_up("write its log");
        bytes = (const char *)bytes + written;
        length -= written;
    }
}

/* Whether the layer cares for the file; standard streams are not among its files. */
static int is_kept(int file, struct stat *status) {
    return log_file >= 0 && file > 2 && file != log_file && fstat(file, status) == 0 && S_ISREG(status->st_mode);
}

/* Notes what `length` bytes at `offset` replace. The lock is held. */
static void note(int file, const struct stat *status, off_t offset, size_t length) {
    struct record record = {'W', status->st_ino, offset, status->st_size, 0};
    char *replaced = NULL;
    if (offset < status->st_size) {
        record.length = status->st_size - offset < (off_t)length ? (size_t)(status->st_size - offset) : length;
        replaced = malloc(record.length);
        int reader = file;
        char path[64];
        if ((fcntl(file, F_GETFL) & O_ACCMODE) == O_WRONLY) {
            snprintf(path, sizeof path, "/proc/self/fd/%d", file);
            reader = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
        }
        for (size_t at = 0; at < record.length;) {
            ssize_t count = syscall(SYS_pread64, reader, replaced + at, record.length - at, offset + at);
            if (count <= 0) give_up("read what is replaced");
            at += count;
        }
        if (reader != file) syscall(SYS_close, reader);
    }
    append(&record, sizeof record);
    if (replaced) append(replaced, record.length);
    free(replaced);
    records++;
}

/* Writes at `offset`, or where the file stands when that is negative. */
static ssize_t put(int file, const struct iovec *parts, int count, off_t offset) {
    struct stat status;
    if (!is_kept(file, &status)) {
        return offset < 0 ? syscall(SYS_writev, file, parts, count) : syscall(SYS_pwritev, file, parts, count, offset, 0);
    }
    pthread_mutex_lock(&lock);
    fstat(file, &status);
    off_t at = offset;
    if (at < 0) at = fcntl(file, F_GETFL) & O_APPEND ? status.st_size : lseek(file, 0, SEEK_CUR);
    size_t length = 0;
    for (int part = 0; part < count; part++) length += parts[part].iov_len;
    struct iovec first = {parts[0].iov_base, parts[0].iov_len};
    ssize_t result;
    if (writes_left >= 0 && (int64_t)length > writes_left) {
        /* A full disk takes what fits of the first part. */
        if ((int64_t)first.iov_len > writes_left) first.iov_len = writes_left;
        length = first.iov_len;
        parts = &first;
        count = 1;
    }
    if (length == 0 && writes_left == 0) {
        errno = ENOSPC;
        result = -1;
    } else {
        note(file, &status, at, length);
        result = offset < 0 ? syscall(SYS_writev, file, parts, count) : syscall(SYS_pwritev, file, parts, count, offset, 0);
        if (result > 0 && writes_left >= 0) writes_left -= result;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t write(int file, const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    return put(file, &part, 1, -1);
}
ssize_t writev(int file, const struct iovec *parts, int count) { return put(file, parts, count, -1); }
ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset) {
    struct iovec part = {(void *)bytes, length};
    return put(file, &part, 1, offset);
}
ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset) { return pwrite(file, bytes, length, offset); }
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset) { return put(file, parts, count, offset); }
ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t offset) { return put(file, parts, count, offset); }

int ftruncate(int file, off_t length) {
    struct stat status;
    if (!is_kept(file, &status)) return syscall(SYS_ftruncate, file, length);
    pthread_mutex_lock(&lock);
    fstat(file, &status);
    note(file, &status, length, length < status.st_size ? (size_t)(status.st_size - length) : 0);
    int result = syscall(SYS_ftruncate, file, length);
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate64(int file, off64_t length) { return ftruncate(file, length); }

static int sync_file(int file, long call) {
    struct stat status;
    if (!is_kept(file, &status)) return syscall(call, file);
    pthread_mutex_lock(&lock);
    struct record record = {'S', status.st_ino, records, 0, 0};
    int fails = syncs_left == 0;
    if (syncs_left > 0) syncs_left--;
    pthread_mutex_unlock(&lock);
    for (int waited_ms = 0; access(hold, F_OK) == 0; waited_ms++) {
        if (waited_ms == HOLD_MAX_MS) give_up("hold a sync any longer");
        usleep(1000);
    }
    if (lies) return 0;
    if (fails || access(fail, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    /* The page cache survives a kill, so nothing needs to be waited for. */
    pthread_mutex_lock(&lock);
    append(&record, sizeof record);
    records++;
    pthread_mutex_unlock(&lock);
    return 0;
}
int fsync(int file) { return sync_file(file, SYS_fsync); }
int fdatasync(int file) { return sync_file(file, SYS_fdatasync); }

static int open_file(int folder, const char *path, int flags, mode_t mode) {
    struct stat status;
    if (log_file < 0 || !(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE) {
        return syscall(SYS_openat, folder, path, flags, mode);
    }
    pthread_mutex_lock(&lock);
    struct stat before;
    int was_there = fstatat(folder, path, &before, 0) == 0;
    int file = syscall(SYS_openat, folder, path, flags & ~O_TRUNC, mode);
    /* Another thread may have renamed the file since: what was opened counts, not what the name meant before. */
    if (file >= 0 && fstat(file, &status) == 0 && S_ISREG(status.st_mode)) {
        if ((flags & O_TRUNC) && status.st_size > 0) {
            note(file, &status, 0, status.st_size);
            if (syscall(SYS_ftruncate, file, 0) != 0) give_up("empty a file");
        } else if (status.st_size == 0 && !(was_there && before.st_ino == status.st_ino)) {
            struct record record = {'N', status.st_ino, 0, 0, 0};
            append(&record, sizeof record);
            records++;
        }
    }
    pthread_mutex_unlock(&lock);
    return file;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }
int open(const char *path, int flags, ...) {
    MODE(flags) return open_file(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags) return open_file(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    MODE(flags) return open_file(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags) return open_file(folder, path, flags | O_LARGEFILE, mode);
}
