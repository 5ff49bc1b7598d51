#include "base/mem.h"
#include "services/vmm/drivers/docker_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#define ID "6d043462d6e6efa6d484923ac620705a2c3b3b220629802c5b89ea886047597f"

static void the_id_is_where_the_hostname_is_mounted_from(void **state)
{
    char id[65];

    (void)state;
    assert_true(docker_own_id(
        "98 72 0:38 / / rw - overlay overlay rw\n"
        "115 98 254:0 /docker/containers/" ID "/resolv.conf /etc/resolv.conf rw - ext4 d rw\n"
        "116 98 254:0 /docker/containers/" ID "/hostname /etc/hostname rw - ext4 d rw\n",
        id));
    assert_string_equal(id, ID);
    /* Podman */
    assert_true(docker_own_id("9 8 0:3 /overlay-containers/" ID "/userdata/hostname /etc/hostname "
                              "rw - tmpfs tmpfs rw\n",
                              id));
}

static void a_host_has_no_id(void **state)
{
    char id[65];

    (void)state;
    assert_false(docker_own_id("", id));
    assert_false(docker_own_id("98 72 0:38 / / rw - ext4 /dev/vda rw\n", id));
    assert_false(docker_own_id("1 2 3:4 /etc/hostname /etc/hostname rw - ext4 d rw\n", id));
    /* a volume that happens to be mounted there, or a name as long as an id */
    assert_false(docker_own_id("1 2 3:4 /" ID "0/x /etc/hostname rw - ext4 d rw\nshort", id));
    assert_false(docker_own_id("1 2 3:4 /containers/" ID "/hostname /mnt rw - ext4 d rw\n", id));
}

static void assert_behind(const json_t *doc, const char *path, const char *want)
{
    cleanup_free char *got = docker_behind_mounts(doc, path);

    if (want)
        assert_string_equal(got, want);
    else
        assert_null(got);
}

static void a_path_is_translated_by_its_innermost_mount(void **state)
{
    json_t *doc = json_pack("{s:[{s:s,s:s},{s:s,s:s},{s:s}]}", "Mounts",                          //
                            "Source", "/var/lib/docker/volumes/a/_data", "Destination", "/var/m", //
                            "Source", "/srv/x", "Destination", "/var/m/in/", "Destination", "/o");

    (void)state;
    assert_behind(doc, "/var/m", "/var/lib/docker/volumes/a/_data");
    assert_behind(doc, "/var/m/sub/d", "/var/lib/docker/volumes/a/_data/sub/d");
    assert_behind(doc, "/var/m/in/d", "/srv/x/d");
    assert_behind(doc, "/var/more", NULL);
    assert_behind(doc, "/o/x", NULL);
    json_decref(doc);
    doc = json_object();
    assert_behind(doc, "/var/m", NULL);
    json_decref(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_id_is_where_the_hostname_is_mounted_from),
        cmocka_unit_test(a_host_has_no_id),
        cmocka_unit_test(a_path_is_translated_by_its_innermost_mount),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
