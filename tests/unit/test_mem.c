#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1 /* what gcc defines and clang does not */
#endif
#endif

static void test_nothing_is_still_a_pointer(void **state)
{
    (void)state;
    cleanup_free void *a = xmalloc(0);
    cleanup_free void *b = xcalloc(0, 8);
    cleanup_free void *c = xrealloc(NULL, 0);
    cleanup_free void *d = xmemdup(NULL, 0);
    assert_true(a && b && c && d);
}

static void test_copies(void **state)
{
    (void)state;
    cleanup_free char *a = xstrdup("abc");
    cleanup_free char *b = xstrndup("abcdef", 2);
    cleanup_free char *c = xstrndup("ab", 9);
    cleanup_free char *d = xasprintf("%d-%s", 7, "x");
    assert_string_equal(a, "abc");
    assert_string_equal(b, "ab");
    assert_string_equal(c, "ab");
    assert_string_equal(d, "7-x");
}

static void test_take_leaves_nothing_behind(void **state)
{
    (void)state;
    char *p = xstrdup("x");
    char *q = TAKE_PTR(p);
    int fd = 42;
    assert_null(p);
    assert_int_equal(TAKE_FD(fd), 42);
    assert_int_equal(fd, -1);
    free(q);
}

#ifndef __SANITIZE_ADDRESS__
/* the sanitizer reports an impossible size itself before we can */
static void test_out_of_memory_aborts(void **state)
{
    int status;

    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        volatile size_t much = SIZE_MAX / 2;
        free(xmalloc(much));
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
#endif

static void test_write_all_and_read_file(void **state)
{
    char path[] = "/tmp/milonga-mem-XXXXXX", big[20000];
    cleanup_free char *text = NULL;
    size_t len = 0;

    (void)state;
    cleanup_close int fd = mkstemp(path);
    assert_true(fd >= 0);
    memset(big, 'y', sizeof(big));
    big[5] = '\0';
    assert_int_equal(write_all(fd, big, sizeof(big)), 0);
    assert_int_equal(read_file(path, sizeof(big), &text, &len), 0);
    assert_int_equal(len, sizeof(big));
    assert_memory_equal(text, big, sizeof(big));
    assert_int_equal(text[len], 0);
    char *before = text;
    assert_int_equal(read_file(path, sizeof(big) - 1, &text, &len), -EFBIG);
    assert_ptr_equal(text, before);
    unlink(path);
    assert_int_equal(read_file(path, 10, &text, &len), -ENOENT);
    assert_int_equal(read_file("/", 10, &text, &len), -EISDIR);
    assert_int_equal(write_all(-1, "x", 1), -EBADF);
    assert_int_equal(write_all(-1, NULL, 0), 0);
}

static void test_read_file_of_proc_and_of_nothing(void **state)
{
    cleanup_free char *text = NULL, *none = NULL;
    size_t len = 9;

    (void)state;
    assert_int_equal(read_file("/proc/self/status", 1 << 20, &text, NULL), 0);
    assert_non_null(strstr(text, "Name:"));
    assert_int_equal(read_file("/dev/null", 0, &none, &len), 0);
    assert_int_equal(len, 0);
    assert_string_equal(none, "");
}

/* Into a full pipe that is drained by bits: each write is short. */
static void test_write_all_goes_on_after_short_writes(void **state)
{
    int fds[2], status;
    char block[4096];
    size_t total = 0;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        char *much = xcalloc(1, 300000);
        int r = write_all(fds[1], much, 300000);
        free(much);
        _exit(r ? 1 : 0);
    }
    close(fds[1]);
    for (ssize_t n; (n = read(fds[0], block, sizeof(block))) > 0;)
        total += (size_t)n;
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(total, 300000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_still_a_pointer),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_take_leaves_nothing_behind),
#ifndef __SANITIZE_ADDRESS__
        cmocka_unit_test(test_out_of_memory_aborts),
#endif
        cmocka_unit_test(test_write_all_and_read_file),
        cmocka_unit_test(test_read_file_of_proc_and_of_nothing),
        cmocka_unit_test(test_write_all_goes_on_after_short_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
