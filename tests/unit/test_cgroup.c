/* Groups on this machine's real hierarchies, whichever they are. Without root nothing here can be
 * had, and the tests are skipped (exit status 0, said on stdout). */

#include "base/cgroup.c"
#include "base/cgroup_tree.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static struct cgroup_tree *tree;

static int make_tree(void **state)
{
    struct error err = ERROR_INIT;
    char path[64];

    (void)state;
    snprintf(path, sizeof(path), "milonga-test/unit-%d", (int)getpid());
    if (cgroup_tree_open(path, &tree, &err) < 0) {
        printf("%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int close_tree(void **state)
{
    (void)state;
    cgroup_tree_close(tree);
    return 0;
}

/* Runs fn in a child inside the group; returns the child. */
static pid_t spawn_in(const struct cgroup *g, void (*fn)(void))
{
    pid_t pid = fork();

    if (pid == 0) {
        if (cgroup_enter(g) < 0)
            _exit(99);
        fn();
        _exit(0);
    }
    assert_true(pid > 0);
    return pid;
}

static int status_of(pid_t pid)
{
    int status = -1;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static struct cgroup *make(const char *name, struct cgroup_limits limits)
{
    struct error err = ERROR_INIT;
    struct cgroup *g = NULL;

    if (cgroup_new(tree, name, &limits, &g, &err) < 0)
        fail_msg("%s", err.msg);
    return g;
}

static void finish(struct cgroup *g)
{
    struct error err = ERROR_INIT;

    if (cgroup_kill(g, clock_mono_ms() + 5000, &err) < 0 ||
        cgroup_remove(g, clock_mono_ms() + 5000, &err) < 0)
        fail_msg("%s", err.msg);
    cgroup_free(g);
}

static void use_memory(void)
{
    size_t size = 64u << 20;
    volatile char *p = malloc(size);

    for (size_t i = 0; i < size; i += 4096)
        p[i] = 1;
}

static void test_memory_limit_kills(void **state)
{
    struct cgroup *g = make("memory", (struct cgroup_limits){.memory_bytes = 16u << 20});
    uint64_t peak = 0;
    int status;

    (void)state;
    assert_false(cgroup_oom(g));
    status = status_of(spawn_in(g, use_memory));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(cgroup_oom(g));
    assert_int_equal(cgroup_usage(g, NULL, &peak), 0);
    assert_in_range(peak, 8u << 20, 16u << 20);
    finish(g);
}

static void fork_many(void)
{
    for (int i = 0; i < 8; i++) {
        pid_t pid = fork();

        if (pid < 0)
            _exit(errno == EAGAIN ? i : 98);
        if (pid == 0)
            for (;;)
                pause();
    }
    _exit(97);
}

static void test_pids_limit_and_kill(void **state)
{
    struct cgroup *g = make("pids", (struct cgroup_limits){.pids = 4});
    struct pids left;

    (void)state;
    assert_int_equal(WEXITSTATUS(status_of(spawn_in(g, fork_many))), 3);
    assert_int_equal(read_pids(g, &left), 0);
    assert_int_equal(left.count, 3);
    free(left.pid);
    finish(g);
}

static void spin(void)
{
    int64_t until = clock_mono_ms() + 600;

    while (clock_mono_ms() < until)
        continue;
}

static void test_cpu_limit_and_usage(void **state)
{
    struct cgroup *g = make("cpu", (struct cgroup_limits){.cores_milli = 200});
    uint64_t cpu = 0;

    (void)state;
    status_of(spawn_in(g, spin));
    assert_int_equal(cgroup_usage(g, &cpu, NULL), 0);
    /* a fifth of 600 ms, and at most two periods' quota on top */
    assert_in_range(cpu, 1000, 200000);
    finish(g);
}

static void breed(void)
{
    for (;;)
        if (fork() < 0)
            for (volatile int i = 0; i < 1000; i++)
                continue;
}

static void test_fork_bomb_is_ended(void **state)
{
    struct cgroup *g = make("bomb", (struct cgroup_limits){.pids = 200, .cores_milli = 500});
    pid_t pid = spawn_in(g, breed);
    struct pids left;

    (void)state;
    poll(NULL, 0, 100);
    assert_int_equal(cgroup_kill(g, clock_mono_ms() + 5000, NULL), 0);
    waitpid(pid, NULL, 0); /* cgroup_kill() may have reaped it */
    assert_int_equal(read_pids(g, &left), 0);
    assert_int_equal(left.count, 0);
    free(left.pid);
    finish(g);
}

static void remember(void *arg, const char *name)
{
    assert_string_equal(name, "listed");
    ++*(int *)arg;
}

static void test_names(void **state)
{
    struct cgroup *g = make("listed", (struct cgroup_limits){.pids = 4});
    struct cgroup *again = NULL;
    struct error err = ERROR_INIT;
    int count = 0;

    (void)state;
    assert_int_equal(cgroup_new(tree, "listed", &(struct cgroup_limits){0}, &again, &err), -EEXIST);
    assert_int_equal(cgroup_tree_each(tree, remember, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_int_equal(cgroup_open(tree, "listed", &again, &err), 0);
    cgroup_free(g);
    cgroup_free(again);
    assert_int_equal(cgroup_end(tree, "listed", clock_mono_ms() + 5000, &err), 0);
    assert_int_equal(cgroup_open(tree, "listed", &again, &err), -ENOENT);
    assert_int_equal(cgroup_end(tree, "listed", clock_mono_ms() + 5000, &err), 0);
}

static void test_add_from_outside(void **state)
{
    struct cgroup *g = make("added", (struct cgroup_limits){.pids = 4});
    pid_t pid = fork();
    struct pids in;

    (void)state;
    if (pid == 0)
        for (;;)
            pause();
    assert_int_equal(cgroup_add(g, pid, NULL), 0);
    assert_int_equal(read_pids(g, &in), 0);
    assert_int_equal(in.count, 1);
    assert_int_equal(in.pid[0], pid);
    free(in.pid);
    finish(g);
}

/* The v2 side on hybrid machines, where that hierarchy has no controllers to limit with: all but
 * limits. */
static void test_invariant_7_v2_without_controllers(void **state)
{
    struct cgroup_tree v2 = {.path = tree->path, .count = 1, .mode = "v2"};
    struct cgroup_tree *own = tree;
    const char *mount = cgroup_tree_beside(tree);
    struct error err = ERROR_INIT;
    uint64_t cpu = 0;
    struct cgroup *g;

    (void)state;
    if (mount == NULL)
        skip();
    v2.trees[0] = (struct cgroup_hierarchy){.mount = xstrdup(mount), .v2 = true, .base_fd = -1};
    for (int c = 0; c < CGROUP_CONTROLLERS; c++)
        v2.home[c] = -1; /* none to be given to groups below */
    if (make_base(&v2, 0, &err) < 0)
        fail_msg("%s", err.msg);
    for (int c = 0; c < CGROUP_CPUACCT; c++)
        v2.home[c] = 0;
    tree = &v2;
    g = make("bare", (struct cgroup_limits){0});
    assert_int_equal(WEXITSTATUS(status_of(spawn_in(g, fork_many))), 97);
    assert_int_equal(get_keyed(g->dir[0], "cpu.stat", "usage_usec", &cpu), 0);
    assert_true(cpu > 0);
    finish(g);
    tree = own;
    close(v2.trees[0].base_fd);
    remove_base(&v2, &v2.trees[0]);
    free(v2.trees[0].mount);
}

static void test_mountinfo_homes(void **state)
{
    char v1[] =
        "30 20 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n"
        "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
        "32 30 0:28 / /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n"
        "33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
        "34 30 0:30 / /sys/fs/cgroup/named rw - cgroup cgroup rw,name=memory\n";
    struct cgroup_tree t = {.home = {-1, -1, -1, -1}};

    (void)state;
    find_homes(&t, v1);
    assert_string_equal(t.mode, "v1");
    assert_int_equal(t.count, 3);
    assert_int_equal(t.home[CGROUP_CPU], t.home[CGROUP_CPUACCT]);
    assert_string_equal(t.trees[t.home[CGROUP_MEMORY]].mount, "/sys/fs/cgroup/my memory");
    assert_null(t.beside);
    for (size_t i = 0; i < t.count; i++)
        free(t.trees[i].mount);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mountinfo_homes),
        cmocka_unit_test(test_memory_limit_kills),
        cmocka_unit_test(test_pids_limit_and_kill),
        cmocka_unit_test(test_cpu_limit_and_usage),
        cmocka_unit_test(test_fork_bomb_is_ended),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_add_from_outside),
        cmocka_unit_test(test_invariant_7_v2_without_controllers),
    };

    if (geteuid() != 0) {
        puts("skipped: cgroups need root");
        return 0;
    }
    return cmocka_run_group_tests(tests, make_tree, close_tree);
}
