#include "services/vmm/image_private.h"

#include "base/mem.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

/* A layer is unpacked by a child whose root directory is the layer itself: no path, symbolic link
 * or bug of a tar reader leads out of it. The child hashes the uncompressed bytes on their way,
 * since that hash is the layer's name. It answers with one struct on a pipe. */

#define WH        ".wh."
#define WH_LEN    4
#define WH_OPAQUE ".wh..wh..opq"

struct answer {
    struct error err; /* code 0: good */
    struct layer_budget used;
    char hex[SHA256_HEX + 1];
};

struct unpacker {
    struct archive *raw; /* takes the compression off */
    struct digest *digest;
    struct archive *tar;
    struct archive *disk;
    struct layer_budget *budget; /* what may be used */
    struct answer *answer;
    uint64_t stream; /* uncompressed bytes */
    char chunk[65536];
};

static int fail(struct unpacker *u, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int fail(struct unpacker *u, int code, const char *fmt, ...)
{
    char text[300];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return err_set(&u->answer->err, ERR_REFUSED, code, "%s", text);
}

static la_ssize_t take_bytes(struct archive *tar, void *arg, const void **ret)
{
    struct unpacker *u = arg;
    la_ssize_t n = archive_read_data(u->raw, u->chunk, sizeof(u->chunk));

    if (n < 0) {
        archive_set_error(tar, EIO, "%s", archive_error_string(u->raw));
        return -1;
    }
    u->stream += (uint64_t)n;
    /* also for what is no entry's data: headers, padding, a bomb behind the end */
    if (u->stream > u->budget->bytes + (1ULL << 30)) {
        archive_set_error(tar, EFBIG, "the layer is too large");
        return -1;
    }
    digest_update(u->digest, u->chunk, (size_t)n);
    *ret = u->chunk;
    return n;
}

/* Relative, without "." and empty components; false when it has "..", is too deep or has a NUL's
 * worth of nothing. */
static bool clean_path(const char *in, char *out, size_t size)
{
    size_t len = 0;
    int depth = 0;

    for (;;) {
        size_t n;

        in += strspn(in, "/");
        n = strcspn(in, "/");
        if (n == 0)
            break;
        if (n == 2 && in[0] == '.' && in[1] == '.')
            return false;
        if (!(n == 1 && in[0] == '.')) {
            if (++depth > IMAGE_DEPTH_MAX || n > NAME_MAX || len + n + 2 > size)
                return false;
            if (len > 0)
                out[len++] = '/';
            memcpy(out + len, in, n);
            len += n;
        }
        in += n;
    }
    out[len] = '\0';
    return true;
}

static int make_parents(const char *path)
{
    char dir[PATH_MAX];

    for (const char *slash = strchr(path, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
        if (mkdir(dir, 0755) < 0 && errno != EEXIST)
            return -errno;
    }
    return 0;
}

/* Docker's layers say "X is gone" by a file .wh.X; overlayfs by a device 0/0 named X. */
static int whiteout(struct unpacker *u, const char *path, const char *base)
{
    char target[PATH_MAX];
    struct stat st;
    int r = make_parents(path);

    if (r < 0)
        return fail(u, -r, "cannot make the directory of %s: %s", path, strerror(-r));
    snprintf(target, sizeof(target), "%.*s", (int)(base - path), path);
    if (strcmp(base, WH_OPAQUE) == 0) {
        if (setxattr(target[0] != '\0' ? target : ".", "trusted.overlay.opaque", "y", 1, 0) < 0)
            return fail(
                u, errno,
                "cannot make /%s opaque: %s; the store needs a file system with trusted xattrs",
                target, strerror(errno));
        return 0;
    }
    if (strncmp(base, WH WH, 2 * WH_LEN) == 0) /* other marks of aufs mean nothing here */
        return 0;
    base += WH_LEN;
    if (base[0] == '\0' || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return fail(u, EINVAL, "bad whiteout \"%s\"", path);
    strncat(target, base, sizeof(target) - strlen(target) - 1);
    if (lstat(target, &st) == 0) /* this layer has put something in its place */
        return 0;
    if (mknod(target, S_IFCHR, makedev(0, 0)) < 0)
        return fail(u, errno, "cannot make the whiteout of /%s: %s", target, strerror(errno));
    return 0;
}

static int copy_data(struct unpacker *u, const char *path)
{
    const void *block;
    size_t len;
    la_int64_t offset;
    int r;

    while ((r = archive_read_data_block(u->tar, &block, &len, &offset)) == ARCHIVE_OK)
        if (archive_write_data_block(u->disk, block, len, offset) < ARCHIVE_OK)
            return fail(u, archive_errno(u->disk), "/%s: %s", path, archive_error_string(u->disk));
    if (r != ARCHIVE_EOF)
        return fail(u, EBADMSG, "/%s: %s", path, archive_error_string(u->tar));
    return 0;
}

static int put_entry(struct unpacker *u, struct archive_entry *e, const char *path)
{
    const char *link = archive_entry_hardlink(e);
    char target[PATH_MAX];
    mode_t type = archive_entry_filetype(e);

    if (link == NULL && type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK &&
        type != AE_IFIFO) {
        u->answer->used.skipped++;
        return 0;
    }
    if (link != NULL) {
        if (!clean_path(link, target, sizeof(target)))
            return fail(u, EINVAL, "/%s: bad link target", path);
        archive_entry_set_hardlink(e, target);
    }
    archive_entry_set_pathname(e, path);
    if (archive_write_header(u->disk, e) < ARCHIVE_WARN)
        return fail(u, archive_errno(u->disk), "/%s: %s", path, archive_error_string(u->disk));
    if (archive_entry_size(e) > 0 && copy_data(u, path) < 0)
        return -1;
    if (archive_write_finish_entry(u->disk) < ARCHIVE_WARN)
        return fail(u, archive_errno(u->disk), "/%s: %s", path, archive_error_string(u->disk));
    return 0;
}

static int one_entry(struct unpacker *u, struct archive_entry *e)
{
    const char *name = archive_entry_pathname(e);
    char path[PATH_MAX];
    const char *base;

    if (name == NULL || !clean_path(name, path, sizeof(path)))
        return fail(u, EINVAL, "bad path \"%.200s\" (\"..\", or too deep)",
                    name != NULL ? name : "");
    if (++u->answer->used.entries > u->budget->entries)
        return fail(u, EFBIG, "more than %llu entries", (unsigned long long)IMAGE_ENTRIES_MAX);
    if (archive_entry_size_is_set(e) && archive_entry_filetype(e) == AE_IFREG)
        u->answer->used.bytes += (uint64_t)archive_entry_size(e);
    if (u->answer->used.bytes > u->budget->bytes)
        return fail(u, EFBIG, "more than %llu bytes", (unsigned long long)IMAGE_BYTES_MAX);
    if (path[0] == '\0') /* "./": what a machine sees of / is its own upper directory */
        return 0;
    base = strrchr(path, '/');
    base = base != NULL ? base + 1 : path;
    if (strncmp(base, WH, WH_LEN) == 0)
        return whiteout(u, path, base);
    return put_entry(u, e, path);
}

static void open_readers(struct unpacker *u)
{
    u->raw = archive_read_new();
    archive_read_support_format_raw(u->raw);
    archive_read_support_format_empty(u->raw);
    archive_read_support_filter_gzip(u->raw);
    archive_read_support_filter_bzip2(u->raw);
    archive_read_support_filter_xz(u->raw);
    archive_read_support_filter_zstd(u->raw);
    u->tar = archive_read_new();
    archive_read_support_format_tar(u->tar);
    archive_read_support_format_empty(u->tar);
    u->disk = archive_write_disk_new();
    /* No xattrs, ACLs or flags: trusted.overlay.* of a stranger would be orders to overlayfs, and
     * file capabilities mean nothing on a nosuid mount. UNLINK: never write through what is there.
     */
    archive_write_disk_set_options(u->disk, ARCHIVE_EXTRACT_OWNER | ARCHIVE_EXTRACT_PERM |
                                                ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_UNLINK);
}

static int unpack(struct unpacker *u, int file_fd)
{
    struct archive_entry *e;
    const void *rest;
    la_ssize_t n;
    int r;

    open_readers(u);
    if (archive_read_open_fd(u->raw, file_fd, 65536) != ARCHIVE_OK ||
        ((r = archive_read_next_header(u->raw, &e)) != ARCHIVE_OK && r != ARCHIVE_EOF))
        return fail(u, EBADMSG, "cannot read the layer: %s", archive_error_string(u->raw));
    if (archive_read_open(u->tar, u, NULL, take_bytes, NULL) != ARCHIVE_OK)
        return fail(u, EBADMSG, "not a tar archive: %s", archive_error_string(u->tar));
    while ((r = archive_read_next_header(u->tar, &e)) == ARCHIVE_OK || r == ARCHIVE_WARN)
        if (one_entry(u, e) < 0)
            return -1;
    if (r != ARCHIVE_EOF)
        return fail(u, EBADMSG, "not a good tar archive: %s", archive_error_string(u->tar));
    while ((n = take_bytes(u->tar, u, &rest)) > 0) /* the hash is of all bytes, not only of tar's */
        continue;
    if (n < 0)
        return fail(u, EBADMSG, "%s", archive_error_string(u->tar));
    if (archive_write_close(u->disk) < ARCHIVE_WARN) /* modes and times of directories */
        return fail(u, archive_errno(u->disk), "%s", archive_error_string(u->disk));
    digest_final(TAKE_PTR(u->digest), u->answer->hex);
    return 0;
}

/* The parent's descriptors must not live on here: an end of a machine's pipe would keep that
 * machine from seeing that it was closed. */
static void close_all_but(unsigned a, unsigned b)
{
    unsigned low = a < b ? a : b, high = a < b ? b : a;

    if (low > 3)
        syscall(SYS_close_range, 3, low - 1, 0);
    if (high > low + 1)
        syscall(SYS_close_range, low + 1, high - 1, 0);
    syscall(SYS_close_range, high + 1, ~0U, 0);
}

static void child(int dir_fd, int file_fd, int pipe_fd, struct layer_budget *budget)
{
    static struct answer answer;
    static struct unpacker u;

    u.budget = budget;
    u.answer = &answer;
    u.digest = digest_new(DIGEST_SHA256);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    signal(SIGPIPE, SIG_DFL);
    umask(0);
    if (fchdir(dir_fd) < 0 || chroot(".") < 0 || chdir("/") < 0) {
        fail(&u, errno, "cannot enter the layer's directory: %s; run as root", strerror(errno));
    } else {
        close_all_but((unsigned)file_fd, (unsigned)pipe_fd);
        unpack(&u, file_fd);
    }
    write_all(pipe_fd, &answer, sizeof(answer));
    _exit(0);
}

static int read_answer(int fd, struct answer *ret)
{
    size_t len = 0;

    while (len < sizeof(*ret)) {
        ssize_t n = read(fd, (char *)ret + len, sizeof(*ret) - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -EPIPE;
        len += (size_t)n;
    }
    ret->err.msg[sizeof(ret->err.msg) - 1] = '\0';
    ret->hex[SHA256_HEX] = '\0';
    return 0;
}

int image_layer_unpack(int dir_fd, int file_fd, struct layer_budget *budget,
                       char hex[SHA256_HEX + 1], struct error *err)
{
    struct answer answer;
    int fds[2], r, status = 0;
    pid_t pid;

    if (lseek(file_fd, 0, SEEK_SET) < 0)
        return err_set_errno(err, ERR_REFUSED, errno, "cannot rewind the archive");
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "cannot make a pipe");
    pid = fork();
    if (pid == 0)
        child(dir_fd, file_fd, fds[1], budget);
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return err_set_errno(err, ERR_TEMPORARY, errno, "cannot fork");
    }
    r = read_answer(fds[0], &answer);
    close(fds[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (r < 0)
        return err_set(err, ERR_TEMPORARY, EPIPE, "the unpacking child ended early (status %d)",
                       status);
    if (answer.err.code != 0) {
        if (err != NULL)
            *err = answer.err;
        return -answer.err.code;
    }
    budget->bytes -= answer.used.bytes;
    budget->entries -= answer.used.entries;
    budget->skipped += answer.used.skipped;
    memcpy(hex, answer.hex, SHA256_HEX + 1);
    return 0;
}
