/* Accounts as images have them: found without NSS, and nothing strange taken for one. */

#include "autodriver/account.c"
#include "autodriver/util.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/test-account.XXXXXX";

static void put(const char *name, const char *text)
{
    char path[64];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void drop(const char *name)
{
    char path[64];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    drop("passwd");
    drop("group");
    return rmdir(dir);
}

static void test_found(void **state)
{
    struct account a;

    (void)state;
    put("passwd", "root:x:0:0:root:/root:/bin/sh\nautograder:x:7:7::/x:\n"
                  "autograde:x:1001:1002:Grades, it does:/home/autograde:/bin/bash\n");
    put("group", "autograde:x:1002:\nlab:x:50:autolab,autograde\nnot:x:51:autograder,xautograde\n"
                 "again:x:50:autograde\nbad:x:-1:autograde\nlast:x:52:autograde");
    assert_int_equal(account_find(dir, "autograde", &a), 0);
    assert_string_equal(a.name, "autograde");
    assert_string_equal(a.home, "/home/autograde");
    assert_int_equal(a.uid, 1001);
    assert_int_equal(a.gid, 1002);
    assert_int_equal(a.group_ct, 3);
    assert_int_equal(a.groups[0], 1002);
    assert_int_equal(a.groups[1], 50);
    assert_int_equal(a.groups[2], 52);
}

static void test_not_found(void **state)
{
    struct account a;

    (void)state;
    put("passwd", "root:x:0:0::/root:\n\n:::::\nautograde2:x:1:1::/:\n");
    assert_int_equal(account_find(dir, "autograde", &a), -ENOENT);
    assert_int_equal(account_find(dir, "", &a), -ENOENT);
    drop("passwd");
    assert_int_equal(account_find(dir, "autograde", &a), -ENOENT);
}

static void test_lines_that_make_no_sense(void **state)
{
    static const char *const lines[] = {
        "u",
        "u:x",
        "u:x::1::/h:",
        "u:x:-1:1::/h:",
        "u:x:1:1x::/h:",
        "u:x:4294967295:1::/h:",
        "u:x:99999999999999999999:1::/h:",
    };
    struct account a;

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        put("passwd", lines[i]);
        assert_int_equal(account_find(dir, "u", &a), -EINVAL);
    }
}

static void test_home(void **state)
{
    struct account a;

    (void)state;
    put("passwd", "rel:x:1:1::home:\nnone:x:1:1\nshort:x:4294967294:1::/h");
    assert_int_equal(account_find(dir, "rel", &a), 0);
    assert_string_equal(a.home, "");
    assert_int_equal(account_find(dir, "none", &a), 0);
    assert_string_equal(a.home, "");
    assert_int_equal(account_find(dir, "short", &a), 0);
    assert_string_equal(a.home, "/h");
    assert_true(a.uid == 4294967294U);
}

static void test_fixed(void **state)
{
    struct account a;

    (void)state;
    account_fixed("autograde", 61234, &a);
    assert_int_equal(a.uid, 61234);
    assert_int_equal(a.gid, 61234);
    assert_int_equal(a.group_ct, 1);
    assert_string_equal(a.home, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found),
        cmocka_unit_test(test_not_found),
        cmocka_unit_test(test_lines_that_make_no_sense),
        cmocka_unit_test(test_home),
        cmocka_unit_test(test_fixed),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
