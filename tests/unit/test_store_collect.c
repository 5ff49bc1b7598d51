/* The collector on a file system that has no hard links: linkat() of store_collect.c is played, and
 * renameat2(). */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int link_errno;
static unsigned link_ct;
static int no_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    link_ct++;
    if (!link_errno)
        return linkat(from_dir, from, to_dir, to, flags);
    errno = link_errno;
    return -1;
}

static int rename_errno;
static int no_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    if (!rename_errno)
        return renameat2(from_dir, from, to_dir, to, flags);
    errno = rename_errno;
    return -1;
}
#define linkat    no_linkat
#define renameat2 no_renameat2
#include "wire/store_collect.c"
#undef linkat
#undef renameat2

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static char dir[] = "/tmp/test_store_collect.XXXXXX";

static struct store *store_make(const char *name)
{
    cleanup_free char *where = xasprintf("%s/%s", dir, name);
    struct store_options opt = {.where = where};
    struct error err = ERROR_INIT;
    struct store *s;

    assert_int_equal(store_open(&opt, &s, &err), 0);
    return s;
}

static struct store *renewing;
static int renew(void *arg, const char *sha256)
{
    (void)arg;
    assert_int_equal(store_has(renewing, sha256), 1);
    return 0;
}

static time_t mtime_of(struct store *s, const char *path)
{
    struct stat st;

    assert_int_equal(store_stat(s->blobs_fd, path, &st), 0);
    return st.st_mtim.tv_sec;
}

/* It is renewed after the collector has found it old: taken, and put back. */
static void test_put_back(void **state)
{
    static const int errors[][2] = {{0, 0}, {EPERM, 0}, {EOPNOTSUPP, 0}, {EPERM, EINVAL}};
    struct timespec old[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        cleanup_free char *name = xasprintf("s%zu", i);
        struct store *s = renewing = store_make(name);
        struct store_info info;
        struct error err = ERROR_INIT;
        char path[BLOB_PATH];
        unsigned cursor = 0;

        link_errno = errors[i][0];
        rename_errno = errors[i][1];
        link_ct = 0;
        assert_int_equal(store_put(s, "abc", 3, &info, &err), 0);
        store_blob_path(info.sha256, path);
        assert_int_equal(utimensat(s->blobs_fd, path, old, 0), 0);
        assert_int_equal(store_collect(s, renew, NULL, 3600, 100, &cursor, &err), 0);
        assert_int_equal(link_ct, 1);
        if (rename_errno) /* it may have gone over one that was renewed */
            assert_true(mtime_of(s, path) > 1000000);
        assert_int_equal(store_has(s, info.sha256), 1);
        assert_int_equal(faccessat(s->blobs_fd, path, F_OK, 0), 0);
        assert_false(store_gone_back(s, NULL)); /* nothing is left of it in tmp/ */
        store_close(s);
    }
}

/* Somebody stored it anew meanwhile: what was taken does not go over it. */
static void test_not_over_another(void **state)
{
    struct store *s = store_make("other");
    struct store_info info;
    struct error err = ERROR_INIT;
    char path[BLOB_PATH], gone[GONE_NAME];
    cleanup_free char *prefix = NULL;
    struct stat before, after;

    (void)state;
    link_errno = EPERM;
    rename_errno = 0;
    assert_int_equal(store_put(s, "abc", 3, &info, &err), 0);
    store_blob_path(info.sha256, path);
    prefix = xasprintf(STORE_GONE_TMP "%s-", info.sha256);
    assert_int_equal(store_name_random(prefix, gone, sizeof(gone)), 0);
    assert_int_equal(renameat(s->blobs_fd, path, s->tmp_fd, gone), 0);
    assert_int_equal(store_put(s, "abc", 3, &info, &err), 0);
    assert_int_equal(store_stat(s->blobs_fd, path, &before), 0);
    store_gone_back(s, info.sha256);
    assert_int_equal(store_stat(s->blobs_fd, path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_false(store_gone_back(s, NULL));
    store_close(s);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    cleanup_free char *command = xasprintf("rm -rf %s", dir);

    (void)state;
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_back),
        cmocka_unit_test(test_not_over_another),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
