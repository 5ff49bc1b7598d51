#ifndef MILONGA_TEST_CONFIG_RIG_H
#define MILONGA_TEST_CONFIG_RIG_H

/* What the tests of the configuration share: a clean environment, a file that goes again, loading.
 * Behind cmocka.h. */

#include "base/config_private.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

static int clean_environment(void **state)
{
    (void)state;
    clearenv();
    setenv("TZ", "UTC", 1);
    return 0;
}

static struct config *load_ok(const char *path)
{
    struct error err = ERROR_INIT;
    struct config *c = NULL;

    if (config_load(path, &c, &err) < 0)
        fail_msg("%s", err.msg);
    return c;
}

static void load_bad(const char *path, const char *expected)
{
    struct error err = ERROR_INIT;
    struct config *c = NULL;

    assert_true(config_load(path, &c, &err) < 0);
    assert_null(c);
    assert_int_equal(err.class, ERR_REFUSED);
    if (!strstr(err.msg, expected))
        fail_msg("\"%s\" does not say \"%s\"", err.msg, expected);
}

static char file_path[64];

static int remove_file(void **state)
{
    (void)state;
    if (file_path[0])
        unlink(file_path);
    return 0;
}

/* A file with this text, removed by the next call. */
static const char *file_with(const char *text)
{
    char *path = file_path;

    remove_file(NULL);
    snprintf(file_path, sizeof(file_path), "/tmp/milonga-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write_all(fd, text, strlen(text)), 0);
    close(fd);
    return path;
}

#define TEST(f) cmocka_unit_test_setup(f, clean_environment)

#endif
