/* Where the docker driver's autodriver lies: those of other builds go once no vmm uses them. */

#include "services/vmm/drivers/docker_layout.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static char root[] = "/tmp/milonga-layout.XXXXXX";
static char *program;

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    assert_true(fd >= 0);
    assert_int_equal(write_all(fd, text, strlen(text)), 0);
    close(fd);
}

static char *folder(const char *hex)
{
    struct error err = ERROR_INIT;
    char *dir = xasprintf("%s/lent/" FOLDER "%s", root, hex);
    cleanup_free char *file = xasprintf("%s/autodriver", dir);
    assert_int_equal(make_dirs(dir, &err), 0);
    put(file, "of an older build");
    return dir;
}

static void lay_out(char **name, int *fd)
{
    struct error err = ERROR_INIT;
    cleanup_free char *lent = xasprintf("%s/lent", root);
    struct config cfg = {.autodriver = program, .docker_volume_path = lent};
    assert_int_equal(docker_lay_out(&cfg, name, fd, &err), 0);
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static void test_unused_ones_go(void **state)
{
    char *name = NULL;
    int fd = -1, other;
    (void)state;
    cleanup_free char *unused = folder("0123456789abcdef"), *used = folder("fedcba9876543210");
    cleanup_free char *strange = folder("notes");
    other = open(used, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(other, LOCK_SH), 0);

    lay_out(&name, &fd);
    assert_false(is_there(unused));
    assert_true(is_there(used));
    assert_true(is_there(strange));
    assert_true(is_folder_name(name));
    free(name);

    /* the older vmm has ended; the newest build comes, and then that of before is not used either
     */
    close(other);
    cleanup_free char *first = xasprintf("/proc/self/fd/%d/autodriver", fd);
    assert_true(is_there(first));
    put(program, "another build");
    int second = -1;
    lay_out(&name, &second);
    free(name);
    assert_false(is_there(used));
    assert_true(is_there(first));
    close(fd);
    int third = -1;
    put(program, "a third build");
    lay_out(&name, &third);
    free(name);
    cleanup_free char *seconds = xasprintf("/proc/self/fd/%d/autodriver", second);
    assert_true(is_there(seconds));
    close(second);
    close(third);
}

/* One that is removed between its making and its lock is made again. */
static void test_removed_meanwhile(void **state)
{
    struct error err = ERROR_INIT;
    int fd = -1;
    (void)state;
    cleanup_free char *dir = folder("00000000000000aa");
    assert_int_equal(take_folder(dir, &fd, &err), 0);
    cleanup_free char *file = xasprintf("%s/autodriver", dir);
    unlink(file);
    rmdir(dir);
    close(fd);
    assert_int_equal(take_folder(dir, &fd, &err), 0);
    assert_true(is_there(dir));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unused_ones_go),
        cmocka_unit_test(test_removed_meanwhile),
    };
    assert_non_null(mkdtemp(root));
    program = xasprintf("%s/autodriver", root);
    put(program, "#!/bin/false\n");
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    image_rmtree(tmp, root + strlen("/tmp/"));
    close(tmp);
    free(program);
    return failed;
}
