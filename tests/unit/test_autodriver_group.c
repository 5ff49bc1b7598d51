/* The machine's control group as both versions have it. */

#include "autodriver/group.c"
#include "autodriver/util.c"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/test-group.XXXXXX";

static void put(const char *name, const char *text)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void drop(const char *name)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    remove(path);
}

static void test_v2(void **state)
{
    struct group_figures g;

    (void)state;
    put("memory.max", "67108864\n");
    put("memory.events", "low 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 9\n");
    put("memory.peak", "4096\n");
    group_read(dir, &g);
    assert_true(g.known);
    assert_int_equal(g.oom_kills, 3);
    assert_int_equal(g.peak_bytes, 4096);
    /* no limit: a kill would be the host's own trouble */
    put("memory.max", "max\n");
    group_read(dir, &g);
    assert_false(g.known);
    drop("memory.max");
    drop("memory.events");
    drop("memory.peak");
}

static void test_v1(void **state)
{
    struct group_figures g;
    char sub[64];

    (void)state;
    snprintf(sub, sizeof(sub), "%s/memory", dir);
    assert_int_equal(mkdir(sub, 0700), 0);
    put("memory/memory.limit_in_bytes", "67108864\n");
    put("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
    put("memory/memory.max_usage_in_bytes", "67108864\n");
    group_read(dir, &g);
    assert_true(g.known);
    assert_int_equal(g.oom_kills, 2);
    assert_int_equal(g.peak_bytes, 67108864);
    put("memory/memory.limit_in_bytes", "9223372036854771712\n");
    group_read(dir, &g);
    assert_false(g.known);
    /* a kernel that does not count */
    put("memory/memory.limit_in_bytes", "67108864\n");
    put("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n");
    group_read(dir, &g);
    assert_false(g.known);
    drop("memory/memory.limit_in_bytes");
    drop("memory/memory.oom_control");
    drop("memory/memory.max_usage_in_bytes");
    drop("memory");
}

static void test_nothing_there(void **state)
{
    struct group_figures g = {.known = true, .oom_kills = 1};

    (void)state;
    group_read("/nonexistent", &g);
    assert_false(g.known);
    assert_int_equal(g.oom_kills, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v2),
        cmocka_unit_test(test_v1),
        cmocka_unit_test(test_nothing_there),
    };

    assert_non_null(mkdtemp(dir));
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return rc;
}
