/* A stand-in for a shared file system, as one node mounts it: the files are those of a folder, and
 * the caches, delays and failures are those of NFS. Not for anything but tests.
 *
 *     disk FOLDER MOUNTPOINT CONTROL LOCKS [options of FUSE]
 *
 * Each node runs one over the same folder, and may mount it over that folder itself. Its kernel
 * caches names (also that there is none), sizes and pages for as long as attr_timeout and its like
 * say, so that a node does not see at once what others do. Who opens a file or a folder asks the
 * server; the name of a file is looked up in the cache, unless its folder was listed since. What is
 * appended goes to where the file ended when the client asked, not when the server wrote. A file
 * that another node removed or replaced is stale for those who have it open; one that this node
 * removes is hidden until then.
 *
 * LOCKS: `shared` between all nodes, `local` to each of them, `none` (ENOLCK).
 * CONTROL is a file with the numbers of `struct control`, in force as soon as they are written.
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t latency; /* microseconds that each operation takes longer */
    int64_t stalled; /* not 0: the server does not answer */
    int64_t growth;  /* errno of whatever needs space: EDQUOT, ENOSPC */
    int64_t change;  /* errno of any change: EROFS */
    int64_t any;     /* errno of everything: EIO */
    int64_t spared;  /* so many operations pass before the first of `any` */
    int64_t late;    /* not 0: a write that fails is reported by fsync() or close(), as NFS may */
    int64_t handles; /* files that were opened under another number are stale */
};

struct handle {
    int fd;
    int64_t number; /* of control->handles when it was opened */
    int append;
    int dirty; /* written to since it was last synced */
    int error; /* of a write, yet to be reported */
};

static const volatile struct control *control;
static int root;
static atomic_long seen; /* operations since `any` was set */
static const struct timespec TICK = {.tv_nsec = 10 * 1000 * 1000};

enum effect { READS, CHANGES, GROWS };

/* Wait for the server's turn; 0, or what it answers to an operation of this kind. */
static int answer(enum effect effect) {
    int64_t latency = control->latency;
    if (latency) {
        struct timespec wait = {latency / 1000000, latency % 1000000 * 1000};
        nanosleep(&wait, NULL);
    }
    while (control->stalled) nanosleep(&TICK, NULL);
    if (!control->any) {
        seen = 0;
    } else if (seen++ >= control->spared) {
        return -(int)control->any;
    }
    if (effect >= CHANGES && control->change) return -(int)control->change;
    if (effect == GROWS && control->growth) return -(int)control->growth;
    return 0;
}

#define ASK(effect)                            \
    do {                                       \
        int refused = answer(effect);          \
        if (refused) return refused;           \
    } while (0)

static int result(int64_t code) { return code < 0 ? -errno : (int)code; }

/* Relative to the folder, which may lie below the mount point. */
static const char *below(const char *path) { return path[1] ? path + 1 : "."; }

static struct handle *handle_of(struct fuse_file_info *info) {
    return (struct handle *)(uintptr_t)info->fh;
}

static int stale(const struct handle *handle) {
    struct stat now;
    return handle->number != control->handles || fstat(handle->fd, &now) || now.st_nlink == 0;
}

/* What is made belongs to who asked for it, not to root. */
static int give(const char *path, int code) {
    if (code < 0) return -errno;
    struct fuse_context *who = fuse_get_context();
    return result(fchownat(root, below(path), who->uid, who->gid, AT_SYMLINK_NOFOLLOW));
}

static int disk_getattr(const char *path, struct stat *found, struct fuse_file_info *info) {
    ASK(READS);
    if (info && stale(handle_of(info))) return -ESTALE;
    if (info) return result(fstat(handle_of(info)->fd, found));
    return result(fstatat(root, below(path), found, AT_SYMLINK_NOFOLLOW));
}

static int disk_readlink(const char *path, char *target, size_t size) {
    ASK(READS);
    ssize_t length = readlinkat(root, below(path), target, size - 1);
    if (length < 0) return -errno;
    target[length] = '\0';
    return 0;
}

static int disk_mknod(const char *path, mode_t mode, dev_t device) {
    ASK(GROWS);
    return give(path, mknodat(root, below(path), mode, device));
}

static int disk_mkdir(const char *path, mode_t mode) {
    ASK(GROWS);
    return give(path, mkdirat(root, below(path), mode));
}

static int disk_symlink(const char *target, const char *path) {
    ASK(GROWS);
    return give(path, symlinkat(target, root, below(path)));
}

static int disk_unlink(const char *path) {
    ASK(CHANGES);
    return result(unlinkat(root, below(path), 0));
}

static int disk_rmdir(const char *path) {
    ASK(CHANGES);
    return result(unlinkat(root, below(path), AT_REMOVEDIR));
}

static int disk_rename(const char *from, const char *to, unsigned int flags) {
    ASK(CHANGES);
    if (flags) return -EINVAL; /* as NFS */
    return result(renameat(root, below(from), root, below(to)));
}

static int disk_link(const char *from, const char *to) {
    ASK(CHANGES);
    return result(linkat(root, below(from), root, below(to), 0));
}

static int disk_chmod(const char *path, mode_t mode, struct fuse_file_info *info) {
    (void)info;
    ASK(CHANGES);
    return result(fchmodat(root, below(path), mode, 0));
}

static int disk_chown(const char *path, uid_t user, gid_t group, struct fuse_file_info *info) {
    (void)info;
    ASK(CHANGES);
    return result(fchownat(root, below(path), user, group, AT_SYMLINK_NOFOLLOW));
}

static int disk_utimens(const char *path, const struct timespec *times,
                        struct fuse_file_info *info) {
    (void)info;
    ASK(CHANGES);
    return result(utimensat(root, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int disk_truncate(const char *path, off_t size, struct fuse_file_info *info) {
    ASK(CHANGES);
    if (info && stale(handle_of(info))) return -ESTALE;
    if (info) return result(ftruncate(handle_of(info)->fd, size));
    int fd = openat(root, below(path), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int code = result(ftruncate(fd, size));
    close(fd);
    return code;
}

/* Close-to-open: who opens a file sees what those wrote who have closed it. */
static void forget_attributes(const char *path) {
    fuse_invalidate_path(fuse_get_context()->fuse, path);
}

static int open_as(const char *path, mode_t mode, struct fuse_file_info *info) {
    int fd = openat(root, below(path), (info->flags & ~O_APPEND) | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0) return -errno;
    struct handle *handle = calloc(1, sizeof *handle);
    if (!handle) abort();
    handle->fd = fd;
    handle->number = control->handles;
    handle->append = info->flags & O_APPEND;
    info->fh = (uint64_t)(uintptr_t)handle;
    return 0;
}

static int disk_open(const char *path, struct fuse_file_info *info) {
    ASK((info->flags & O_ACCMODE) == O_RDONLY ? READS : CHANGES);
    int code = open_as(path, 0, info);
    if (!code) forget_attributes(path);
    return code;
}

static int disk_create(const char *path, mode_t mode, struct fuse_file_info *info) {
    struct stat found;
    int made = fstatat(root, below(path), &found, AT_SYMLINK_NOFOLLOW) < 0;
    ASK(made ? GROWS : CHANGES);
    int code = open_as(path, mode, info);
    return code || !made ? code : give(path, 0);
}

static int disk_read(const char *path, char *data, size_t size, off_t at,
                     struct fuse_file_info *info) {
    (void)path;
    ASK(READS);
    struct handle *handle = handle_of(info);
    return stale(handle) ? -ESTALE : result(pread(handle->fd, data, size, at));
}

static int disk_write(const char *path, const char *data, size_t size, off_t at,
                      struct fuse_file_info *info) {
    (void)path;
    struct handle *handle = handle_of(info);
    struct stat before;
    if (stale(handle) || fstat(handle->fd, &before)) return -ESTALE;
    int refused = answer(GROWS);
    handle->dirty = 1;
    if (refused && !control->late) return refused;
    if (refused) {
        handle->error = refused;
        return (int)size;
    }
    return result(pwrite(handle->fd, data, size, handle->append ? before.st_size : at));
}

static int reported(struct handle *handle) {
    int error = handle->error;
    if (!error && handle->dirty && stale(handle)) error = -ESTALE;
    handle->error = handle->dirty = 0;
    return error;
}

static int disk_fsync(const char *path, int only_data, struct fuse_file_info *info) {
    (void)path, (void)only_data;
    ASK(READS);
    int error = reported(handle_of(info));
    return error ? error : result(fdatasync(handle_of(info)->fd));
}

static int disk_flush(const char *path, struct fuse_file_info *info) {
    (void)path;
    ASK(READS);
    return reported(handle_of(info));
}

static int disk_release(const char *path, struct fuse_file_info *info) {
    (void)path;
    close(handle_of(info)->fd);
    free(handle_of(info));
    return 0;
}

static int disk_fallocate(const char *path, int mode, off_t at, off_t length,
                          struct fuse_file_info *info) {
    (void)path;
    ASK(GROWS);
    return result(fallocate(handle_of(info)->fd, mode, at, length));
}

static int disk_statfs(const char *path, struct statvfs *found) {
    (void)path;
    ASK(READS);
    return result(fstatvfs(root, found));
}

static int disk_opendir(const char *path, struct fuse_file_info *info) {
    ASK(READS);
    int fd = openat(root, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    info->fh = (uint64_t)(uintptr_t)folder;
    return folder ? 0 : -errno;
}

/* With attributes, so that a node that lists a folder also learns of names it took for absent. */
static int disk_readdir(const char *path, void *list, fuse_fill_dir_t add, off_t at,
                        struct fuse_file_info *info, enum fuse_readdir_flags flags) {
    (void)path, (void)flags;
    ASK(READS);
    DIR *folder = (DIR *)(uintptr_t)info->fh;
    at ? seekdir(folder, at) : rewinddir(folder);
    struct dirent *entry;
    while ((entry = readdir(folder))) {
        struct stat found;
        if (fstatat(dirfd(folder), entry->d_name, &found, AT_SYMLINK_NOFOLLOW)) continue;
        if (add(list, entry->d_name, &found, entry->d_off, FUSE_FILL_DIR_PLUS)) break;
    }
    return 0;
}

static int disk_releasedir(const char *path, struct fuse_file_info *info) {
    (void)path;
    closedir((DIR *)(uintptr_t)info->fh);
    return 0;
}

static int disk_fsyncdir(const char *path, int only_data, struct fuse_file_info *info) {
    (void)path, (void)only_data, (void)info;
    return answer(READS);
}

static int disk_flock(const char *path, struct fuse_file_info *info, int operation) {
    (void)path;
    ASK(READS);
    for (;;) {
        if (flock(handle_of(info)->fd, operation | LOCK_NB) == 0) return 0;
        if (errno != EWOULDBLOCK || operation & LOCK_NB) return -errno;
        if (fuse_interrupted()) return -EINTR;
        nanosleep(&TICK, NULL);
    }
}

static int disk_lock(const char *path, struct fuse_file_info *info, int command,
                     struct flock *lock) {
    (void)path;
    ASK(READS);
    lock->l_pid = 0;
    int set = command == F_GETLK ? F_OFD_GETLK : F_OFD_SETLK;
    while (fcntl(handle_of(info)->fd, set, lock) < 0) {
        if ((errno != EAGAIN && errno != EACCES) || command != F_SETLKW) return -errno;
        if (fuse_interrupted()) return -EINTR;
        nanosleep(&TICK, NULL);
    }
    return 0;
}

static int no_flock(const char *path, struct fuse_file_info *info, int operation) {
    (void)path, (void)info, (void)operation;
    return -ENOLCK;
}

static int no_lock(const char *path, struct fuse_file_info *info, int command,
                   struct flock *lock) {
    (void)path, (void)info, (void)command, (void)lock;
    return -ENOLCK;
}

static void *disk_init(struct fuse_conn_info *connection, struct fuse_config *config) {
    connection->want &= ~(unsigned)FUSE_CAP_READDIRPLUS_AUTO; /* with attributes, always */
    config->use_ino = 1;
    return NULL;
}

static struct fuse_operations operations = {
    .init = disk_init, .getattr = disk_getattr, .readlink = disk_readlink, .mknod = disk_mknod,
    .mkdir = disk_mkdir, .symlink = disk_symlink, .unlink = disk_unlink, .rmdir = disk_rmdir,
    .rename = disk_rename, .link = disk_link, .chmod = disk_chmod, .chown = disk_chown,
    .utimens = disk_utimens, .truncate = disk_truncate, .open = disk_open,
    .create = disk_create, .read = disk_read, .write = disk_write, .fsync = disk_fsync,
    .flush = disk_flush, .release = disk_release, .fallocate = disk_fallocate,
    .statfs = disk_statfs, .opendir = disk_opendir, .readdir = disk_readdir,
    .releasedir = disk_releasedir, .fsyncdir = disk_fsyncdir, .flock = disk_flock, .lock = disk_lock,
};

static int fail(const char *what) {
    perror(what);
    return 1;
}

int main(int count, char **words) {
    if (count < 5) {
        fputs("usage: disk FOLDER MOUNTPOINT CONTROL shared|local|none [options of FUSE]\n", stderr);
        return 2;
    }
    const char *locks = words[4];
    int numbers = open(words[3], O_RDONLY | O_CLOEXEC);
    if (numbers < 0) return fail(words[3]);
    control = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, numbers, 0);
    if (control == MAP_FAILED) return fail(words[3]);
    if ((root = open(words[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) return fail(words[1]);
    if (strcmp(locks, "local") == 0) {
        operations.flock = NULL; /* left to the kernel */
        operations.lock = NULL;
    } else if (strcmp(locks, "none") == 0) {
        operations.flock = no_flock;
        operations.lock = no_lock;
    }
    umask(0);
    /* A server that does not answer must not starve those who wait for one another. */
    static char threads[] = "-omax_threads=100", users[] = "-oallow_other,default_permissions";
    char *given[count + 2];
    int length = 0;
    given[length++] = words[0];
    given[length++] = words[2];
    given[length++] = users;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 12)
    given[length++] = threads;
#else
    (void)threads; /* as many as it needs */
#endif
    for (int word = 5; word < count; word++) given[length++] = words[word];
    return fuse_main(length, given, &operations, NULL);
}
