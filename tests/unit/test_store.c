/* Both forms of the store; the http form against a small server of this test's own. */

#include "wire/store.h"

#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SHA_ABC  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define SHA_NONE "0000000000000000000000000000000000000000000000000000000000000000"

static char dir[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int dir_setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/milonga-store-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int dir_teardown(void **state)
{
    (void)state;
    return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static struct store *store_make(const char *sub)
{
    cleanup_free char *where = xasprintf("%s/%s", dir, sub);
    struct store_options opt = {.where = where};
    struct error err = ERROR_INIT;
    struct store *s = NULL;

    assert_int_equal(store_open(&opt, &s, &err), 0);
    return s;
}

static unsigned file_count;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)ftw;
    file_count += type == FTW_F && !strstr(path, "/lock");
    if (type == FTW_F)
        assert_int_equal(st->st_mode & 0777, 0600);
    else
        assert_int_equal(st->st_mode & 0777, 0700);
    return 0;
}

static unsigned files_below(const char *sub)
{
    cleanup_free char *path = xasprintf("%s/%s", dir, sub);

    file_count = 0;
    nftw(path, count_one, 16, FTW_PHYS);
    return file_count;
}

static void content_is(struct store *s, const char *sha256, const char *want)
{
    char got[64] = "";
    uint64_t size = 0;
    int fd = -1;

    assert_int_equal(store_get(s, sha256, &fd, &size, NULL), 0);
    assert_int_equal(size, strlen(want));
    assert_int_equal(read(fd, got, sizeof(got) - 1), (ssize_t)size);
    assert_string_equal(got, want);
    close(fd);
}

static void written_once_and_read(void **state)
{
    struct store *s = store_make("a/b/store");
    struct store_writer *w = NULL;
    struct store_info info, again;
    struct error err = ERROR_INIT;
    uint64_t size;
    int fd;

    (void)state;
    assert_int_equal(store_write_begin(s, &w, &err), 0);
    assert_int_equal(store_write(w, "ab", 2, &err), 0);
    assert_int_equal(store_write(w, "c", 1, &err), 0);
    assert_int_equal(store_has(s, SHA_ABC), 0);
    assert_int_equal(store_write_commit(w, &info, &err), 0);
    assert_string_equal(info.sha256, SHA_ABC);
    assert_string_equal(info.md5, "900150983cd24fb0d6963f7d28e17f72");
    assert_int_equal(info.size, 3);
    assert_int_equal(store_put(s, "abc", 3, &again, &err), 0);
    assert_string_equal(again.sha256, info.sha256);
    assert_string_equal(again.md5, info.md5);
    assert_int_equal(again.size, 3);
    assert_int_equal(store_write_begin(s, &w, &err), 0);
    assert_int_equal(store_write(w, "abc", 3, &err), 0);
    assert_int_equal(store_write_commit(w, &again, &err), 0);
    assert_int_equal(store_write_begin(s, &w, &err), 0);
    assert_int_equal(store_write(w, "dropped", 7, &err), 0);
    store_write_drop(w);
    assert_int_equal(files_below("a/b/store"), 1);
    assert_int_equal(store_has(s, SHA_ABC), 1);
    content_is(s, SHA_ABC, "abc");
    assert_int_equal(store_get(s, SHA_NONE, &fd, &size, &err), -ENOENT);
    assert_int_equal(err.class, ERR_PERMANENT);
    assert_int_equal(store_get(s, "../../etc/passwd", &fd, &size, &err), -EINVAL);
    assert_int_equal(store_has(s, "ABC"), -EINVAL);
    store_close(s);
}

static int count_record(void *arg, const char *name)
{
    assert_true(strncmp(name, "ids", 3) == 0);
    ++*(int *)arg;
    return 0;
}

static int stop_at_once(void *arg, const char *name)
{
    (void)arg;
    (void)name;
    return 7;
}

static void records(void **state)
{
    struct store *s = store_make("s");
    struct error err = ERROR_INIT;
    char *text = NULL;
    int ct = 0;

    (void)state;
    assert_int_equal(store_meta_get(s, "ids", &text, &err), -ENOENT);
    assert_int_equal(store_meta_put(s, "ids", "1 100", &err), 0);
    assert_int_equal(store_meta_put(s, "ids", "2 200", &err), 0);
    assert_int_equal(store_meta_get(s, "ids", &text, &err), 0);
    assert_string_equal(text, "2 200");
    free(text);
    assert_int_equal(store_meta_put(s, "ids-2-200", "2 200", &err), 0);
    assert_int_equal(store_meta_put(s, "other", "x", &err), 0);
    assert_int_equal(store_meta_list(s, "ids", count_record, &ct, &err), 0);
    assert_int_equal(ct, 2);
    assert_int_equal(store_meta_list(s, "ids", stop_at_once, &ct, &err), 7);
    assert_int_equal(store_meta_drop(s, "ids-2-200", &err), 0);
    assert_int_equal(store_meta_drop(s, "ids-2-200", &err), 0);
    assert_int_equal(store_meta_get(s, "ids-2-200", &text, &err), -ENOENT);
    assert_int_equal(store_meta_drop(s, "../ids", &err), -EINVAL);
    assert_int_equal(store_meta_put(s, "../ids", "x", &err), -EINVAL);
    assert_int_equal(store_meta_put(s, "", "x", &err), -EINVAL);
    assert_int_equal(files_below("s/tmp"), 0);
    store_close(s);
}

static void no_directory(void **state)
{
    struct store_options opt = {.where = "/proc/nothing/here"};
    struct error err = ERROR_INIT;
    struct store *s = NULL;

    (void)state;
    assert_true(store_open(&opt, &s, &err) < 0);
    assert_non_null(strstr(err.msg, "/proc/nothing/here"));
    opt.where = "";
    assert_int_equal(store_open(&opt, &s, &err), -EINVAL);
    assert_null(s);
}

/* ---- Collecting
 * ---------------------------------------------------------------------------------- */

static void age(const char *sub, const char *name, time_t by_s)
{
    cleanup_free char *path = xasprintf("%s/%s/%s", dir, sub, name);
    struct timespec t[2] = {{.tv_sec = time(NULL) - by_s}, {.tv_sec = time(NULL) - by_s}};

    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
}

static void age_blob(const char *sub, const char *sha256, time_t by_s)
{
    cleanup_free char *path = xasprintf("%.2s/%s", sha256, sha256);

    age(sub, path, by_s);
}

static struct store *renewing; /* keep_few() renews all in it, as an upload meanwhile would */

static int keep_few(void *arg, const char *sha256)
{
    ++*(unsigned *)arg;
    if (renewing)
        assert_int_equal(store_has(renewing, sha256), 1);
    return sha256[0] == '0';
}

static void collects_in_slices(void **state)
{
    enum { BLOBS = 200 };
    struct store *s = store_make("s");
    struct store_info info[BLOBS];
    unsigned cursor = 0, asked = 0, calls = 0, kept = 0;
    int gone = 0, r;
    struct error err = ERROR_INIT;

    (void)state;
    for (int i = 0; i < BLOBS; i++) {
        assert_int_equal(store_put(s, &i, sizeof(i), &info[i], &err), 0);
        if (i >= 10) /* ten are young */
            age_blob("s/blobs", info[i].sha256, 7200);
        kept += i < 10 || info[i].sha256[0] == '0';
    }
    do {
        r = store_collect(s, keep_few, &asked, 3600, 7, &cursor, &err);
        assert_in_range(r, 0, 7);
        gone += r;
        calls++;
    } while (cursor != 0);
    assert_in_range(calls, BLOBS / 7, BLOBS / 7 + 2);
    assert_int_equal(asked, BLOBS - 10);
    assert_int_equal(gone, BLOBS - (int)kept);
    assert_int_equal(files_below("s/blobs"), kept);
    assert_int_equal(store_collect(s, keep_few, &asked, 3600, 0, &cursor, &err), -EINVAL);
    store_close(s);
}

static void what_was_renewed_meanwhile_stays(void **state)
{
    struct store *s = store_make("s");
    struct store_info info;
    unsigned cursor = 0, asked = 0;

    (void)state;
    assert_int_equal(store_put(s, "abc", 3, &info, NULL), 0);
    age_blob("s/blobs", info.sha256, 7200);
    renewing = s;
    assert_int_equal(store_collect(s, keep_few, &asked, 3600, 9, &cursor, NULL), 0);
    renewing = NULL;
    assert_int_equal(asked, 1);
    content_is(s, SHA_ABC, "abc");
    age_blob("s/blobs", info.sha256, 7200);
    assert_int_equal(store_collect(s, keep_few, &asked, 3600, 9, &cursor, NULL), 1);
    assert_int_equal(store_has(s, SHA_ABC), 0);
    store_close(s);
}

static void abandoned_temp_files_go(void **state)
{
    struct store *s = store_make("s");
    struct store_writer *w = NULL;
    cleanup_free char *old = xasprintf("%s/s/tmp/w-old", dir);
    unsigned cursor = 0, asked = 0;

    (void)state;
    assert_int_equal(store_write_begin(s, &w, NULL), 0);
    close(open(old, O_CREAT | O_WRONLY, 0600));
    age("s/tmp", "w-old", 2 * 86400);
    assert_int_equal(store_collect(s, keep_few, &asked, 3600, 9, &cursor, NULL), 0);
    assert_int_equal(files_below("s/tmp"), 0); /* the one in the making has no name */
    store_write_drop(w);
    store_close(s);
}

static void a_killed_writer_leaves_nothing(void **state)
{
    struct store *s = store_make("s");
    cleanup_free char *record = xasprintf("%s/s/tmp/record-ids", dir);
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    if (pid == 0) {
        struct store_writer *w = NULL;

        if (store_write_begin(s, &w, NULL) == 0 && store_write(w, "abc", 3, NULL) == 0)
            raise(SIGKILL);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(files_below("s/tmp"), 0);
    /* of one who died while a record had its passing name */
    close(open(record, O_CREAT | O_WRONLY, 0600));
    store_close(s);
    s = store_make("s");
    assert_int_equal(files_below("s/tmp"), 0);
    store_close(s);
}

static int keep_nothing(void *arg, const char *sha256)
{
    (void)arg;
    (void)sha256;
    return 0;
}

/* A collector that stands still before its first system call, at the last shard. */
static pid_t collector_begin(struct store *s, const char *sha256)
{
    unsigned cursor =
        (unsigned)strtoul((char[9]){sha256[0], sha256[1], '0', '0', '0', '0', '0', '0'}, NULL, 16);
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        _exit(store_collect(s, keep_nothing, NULL, 3600, 9, &cursor, NULL) < 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSTOPPED(status));
    return pid;
}

/* Lets it do as many half system calls (in, or out); false when that was the end of it. */
static bool collector_step(pid_t pid, int steps)
{
    int status;

    while (steps-- > 0) {
        assert_int_equal(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSTOPPED(status))
            return false;
    }
    return true;
}

static void collector_end(pid_t pid, bool killed)
{
    int status;

    if (killed)
        kill(pid, SIGKILL);
    else
        ptrace(PTRACE_DETACH, pid, NULL, NULL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#define IN_LAST_SHARD "70"

/* A collector stands still, then some steps later again, then goes on or dies: what was told to be
 * there meanwhile is there at each time. False when it has fewer steps. */
static bool collector_tried(struct store *s, int first, int more, bool put, bool killed)
{
    struct store_info info;
    unsigned cursor = 0;
    bool told, stands;
    pid_t pid;

    assert_int_equal(store_put(s, IN_LAST_SHARD, strlen(IN_LAST_SHARD), &info, NULL), 0);
    assert_int_equal(strncmp(info.sha256, "ff", 2), 0);
    age_blob("s/blobs", info.sha256, 7200);
    pid = collector_begin(s, info.sha256);
    if (!collector_step(pid, first))
        return false;
    alarm(60); /* who waits for it, waits for ever */
    told = put ? store_put(s, IN_LAST_SHARD, strlen(IN_LAST_SHARD), &info, NULL) == 0
               : store_has(s, info.sha256) == 1;
    assert_true(told || !put);
    stands = collector_step(pid, more);
    if (told)
        content_is(s, info.sha256, IN_LAST_SHARD);
    alarm(0);
    if (stands)
        collector_end(pid, killed);
    if (told)
        content_is(s, info.sha256, IN_LAST_SHARD);
    store_collect(s, keep_nothing, NULL, 3600, 9, &cursor, NULL);
    assert_int_equal(files_below("s/blobs"), told);
    assert_int_equal(files_below("s/tmp"), 0);
    return stands;
}

static void a_collector_that_stands_still_holds_up_nobody(void **state)
{
    struct store *s = store_make("s");
    int steps = 0, more;

    (void)state;
    for (; collector_tried(s, steps, 0, true, false); steps++) {
        collector_tried(s, steps, 0, true, true);
        for (more = 0; collector_tried(s, steps, more, false, false); more++)
            collector_tried(s, steps, more, false, true);
    }
    assert_true(steps > 10);
    store_close(s);
}

/* ---- The http form
 * ------------------------------------------------------------------------------- */

static struct {
    int listener;
    int port;
    pthread_t thread;
    struct store *behind;
    atomic_int status; /* nonzero: answer everything so */
    atomic_bool lie;   /* wrong bytes */
    atomic_bool cut;   /* half a body, then the end */
    atomic_int gets;
} web;

static void say(int fd, const char *text)
{
    (void)write_all(fd, text, strlen(text));
}

static void answer(int fd, int status, const char *body, size_t len, bool head)
{
    cleanup_free char *line =
        xasprintf("HTTP/1.1 %d x\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status, len);

    say(fd, line);
    if (!head)
        (void)write_all(fd, body, web.cut ? len / 2 : len);
}

static void serve_get(int fd, const char *sha256, bool head)
{
    char body[4096];
    uint64_t size = 0;
    int blob;

    if (store_get(web.behind, sha256, &blob, &size, NULL) < 0) {
        answer(fd, 404, "", 0, head);
        return;
    }
    assert_int_equal(read(blob, body, sizeof(body)), (ssize_t)size);
    close(blob);
    if (web.lie)
        body[0] ^= 1;
    web.gets += !head;
    answer(fd, 200, body, size, head);
}

static void serve(int fd)
{
    char in[8192], verb[8] = "", sha256[SHA256_HEX + 1] = "";
    const char *body, *length;
    size_t have = 0, want = 0;
    struct store_info info;
    ssize_t n;

    do {
        n = read(fd, in + have, sizeof(in) - 1 - have);
        if (n <= 0)
            return;
        have += (size_t)n;
        in[have] = '\0';
        body = strstr(in, "\r\n\r\n");
        length = strstr(in, "Content-Length: ");
        want = body && length ? strtoul(length + 16, NULL, 10) : 0;
    } while (!body || have - (size_t)(body + 4 - in) < want);
    if (sscanf(in, "%7s /base/store/%64s HTTP", verb, sha256) != 2 || web.status)
        answer(fd, web.status ? web.status : 400, "", 0, verb[0] == 'H');
    else if (!strstr(in, "\r\nAuthorization: Bearer s3cret\r\n"))
        answer(fd, 401, "", 0, verb[0] == 'H');
    else if (strcmp(verb, "PUT") == 0)
        answer(fd, store_put(web.behind, body + 4, want, &info, NULL) == 0 ? 201 : 500, "", 0, 0);
    else
        serve_get(fd, sha256, strcmp(verb, "HEAD") == 0);
}

static void *web_run(void *arg)
{
    int fd;

    (void)arg;
    while ((fd = accept(web.listener, NULL, NULL)) >= 0) {
        serve(fd);
        close(fd);
    }
    return NULL;
}

static int web_setup(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    if (dir_setup(state) < 0)
        return -1;
    web.status = 0;
    web.lie = web.cut = false;
    web.gets = 0;
    web.behind = store_make("behind");
    web.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(web.listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(web.listener, 16) < 0 ||
        getsockname(web.listener, (struct sockaddr *)&a, &len) < 0)
        return -1;
    web.port = ntohs(a.sin_port);
    return pthread_create(&web.thread, NULL, web_run, NULL);
}

static int web_teardown(void **state)
{
    shutdown(web.listener, SHUT_RDWR);
    pthread_join(web.thread, NULL);
    close(web.listener);
    store_close(web.behind);
    return dir_teardown(state);
}

static struct store *web_store(const char *key, uint64_t cache_bytes)
{
    cleanup_free char *where = xasprintf("http://127.0.0.1:%d/base/", web.port);
    cleanup_free char *cache = xasprintf("%s/cache", dir);
    struct store_options opt = {
        .where = where, .key = key, .cache_dir = cache, .cache_bytes = cache_bytes};
    struct error err = ERROR_INIT;
    struct store *s = NULL;

    assert_int_equal(store_open(&opt, &s, &err), 0);
    return s;
}

static void http_put_get_has(void **state)
{
    struct store *s = web_store("s3cret", 1 << 20);
    struct error err = ERROR_INIT;
    struct store_info info;
    char *text = NULL;
    uint64_t size;
    unsigned cursor = 0;
    int fd = -1;

    (void)state;
    assert_int_equal(store_has(s, SHA_ABC), 0);
    assert_int_equal(store_put(s, "abc", 3, &info, &err), 0);
    assert_string_equal(info.sha256, SHA_ABC);
    assert_int_equal(store_has(web.behind, SHA_ABC), 1);
    assert_int_equal(store_has(s, SHA_ABC), 1);
    content_is(s, SHA_ABC, "abc");
    assert_int_equal(web.gets, 0); /* what was put is in the cache */
    assert_int_equal(store_put(web.behind, "other", 5, &info, &err), 0);
    content_is(s, info.sha256, "other");
    content_is(s, info.sha256, "other");
    assert_int_equal(web.gets, 1);
    assert_int_equal(store_get(s, SHA_NONE, &fd, &size, &err), -ENOENT);
    assert_int_equal(err.class, ERR_PERMANENT);
    assert_int_equal(store_put(s, "", 0, &info, &err), 0);
    assert_int_equal(store_meta_put(s, "ids", "x", &err), -ENOTSUP);
    assert_int_equal(store_meta_get(s, "ids", &text, &err), -ENOTSUP);
    assert_int_equal(store_collect(s, NULL, NULL, 0, 1, &cursor, &err), -ENOTSUP);
    assert_int_equal(files_below("cache/tmp"), 0);
    store_close(s);
}

static void http_failures_have_classes(void **state)
{
    struct store *s = web_store("s3cret", 1 << 20), *wrong = web_store("nope", 1 << 20);
    struct error err = ERROR_INIT;
    struct store_info info;
    uint64_t size;
    int fd = -1;

    (void)state;
    assert_int_equal(store_put(web.behind, "abc", 3, &info, &err), 0);
    assert_int_equal(store_get(wrong, SHA_ABC, &fd, &size, &err), -EACCES);
    assert_int_equal(err.class, ERR_PERMANENT);
    assert_non_null(strstr(err.msg, "store_key"));
    assert_null(strstr(err.msg, "nope"));
    web.status = 503;
    assert_int_equal(store_get(s, SHA_ABC, &fd, &size, &err), -EIO);
    assert_int_equal(err.class, ERR_TEMPORARY);
    assert_int_equal(store_put(s, "new", 3, &info, &err), -EIO);
    assert_int_equal(store_has(s, SHA_ABC), -EIO);
    web.status = 302; /* never followed: the key would go along */
    assert_int_equal(store_get(s, SHA_ABC, &fd, &size, &err), -EIO);
    assert_int_equal(err.class, ERR_PERMANENT);
    web.status = 0;
    web.lie = true;
    assert_int_equal(store_get(s, SHA_ABC, &fd, &size, &err), -EBADMSG);
    web.lie = false;
    web.cut = true;
    assert_int_equal(store_get(s, SHA_ABC, &fd, &size, &err), -EIO);
    assert_int_equal(err.class, ERR_TEMPORARY);
    web.cut = false;
    assert_int_equal(files_below("cache"), 0);
    content_is(s, SHA_ABC, "abc");
    store_close(s);
    store_close(wrong);
}

static void cache_is_bounded(void **state)
{
    struct store *s = web_store("s3cret", 100);
    struct store_info first, info;
    struct error err = ERROR_INIT;
    char text[40] = {0}, large[101] = {0};
    uint64_t size;
    int fd = -1;

    (void)state;
    for (int i = 0; i < 10; i++) {
        text[0] = (char)('a' + i);
        assert_int_equal(store_put(web.behind, text, sizeof(text), &info, &err), 0);
        if (i == 0)
            first = info;
        assert_int_equal(store_get(s, info.sha256, &fd, &size, &err), 0);
        close(fd);
        assert_in_range(files_below("cache/blobs"), 1, 2);
        usleep(10000); /* mtimes are as fine as the kernel's tick */
        assert_int_equal(store_get(s, first.sha256, &fd, &size, &err), 0); /* in use: it stays */
        close(fd);
        usleep(10000);
    }
    assert_int_equal(web.gets, 10);
    assert_int_equal(store_put(web.behind, large, sizeof(large), &info, &err), 0);
    assert_int_equal(store_get(s, info.sha256, &fd, &size, &err), -EFBIG);
    assert_non_null(strstr(err.msg, "store_cache_bytes"));
    store_close(s);
}

#define WITH_DIR(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)
#define WITH_WEB(f) cmocka_unit_test_setup_teardown(f, web_setup, web_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DIR(written_once_and_read),
        WITH_DIR(records),
        cmocka_unit_test(no_directory),
        WITH_DIR(collects_in_slices),
        WITH_DIR(what_was_renewed_meanwhile_stays),
        WITH_DIR(abandoned_temp_files_go),
        WITH_DIR(a_killed_writer_leaves_nothing),
        WITH_DIR(a_collector_that_stands_still_holds_up_nobody),
        WITH_WEB(http_put_get_has),
        WITH_WEB(http_failures_have_classes),
        WITH_WEB(cache_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
