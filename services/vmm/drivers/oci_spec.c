#include "services/vmm/drivers/oci_private.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What the autodriver needs: to make the job's files the job's (CHOWN, FOWNER, DAC_OVERRIDE), to
 * become the job's account (SETUID, SETGID) and to kill what the job left (KILL). The job itself
 * has none. */
static json_t *capabilities(void)
{
    json_t *list = json_pack("[ssssss]", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER",
                             "CAP_SETUID", "CAP_SETGID", "CAP_KILL");
    json_t *c = json_pack("{s:O,s:O,s:O,s:[],s:[]}", "bounding", list, "effective", list,
                          "permitted", list, "inheritable", "ambient");

    json_decref(list);
    return c;
}

json_t *oci_bind(const char *from, const char *to, bool read_only, bool no_exec)
{
    json_t *options = json_pack("[sss]", "bind", "nosuid", "nodev");

    json_array_append_new(options, json_string(read_only ? "ro" : "rw"));
    if (no_exec)
        json_array_append_new(options, json_string("noexec"));
    return json_pack("{s:s,s:s,s:s,s:o}", "destination", to, "type", "bind", "source", from,
                     "options", options);
}

/* /tmp, /var/tmp and /dev/shm are directories of the machine's one tmpfs, so that one size bounds
 * all that a job can write. */
static json_t *mounts(const struct oci_spec *s)
{
    cleanup_free char *tmp = xasprintf("%s/rw/tmp", s->bundle);
    cleanup_free char *var_tmp = xasprintf("%s/rw/vartmp", s->bundle);
    cleanup_free char *shm = xasprintf("%s/rw/shm", s->bundle);
    json_t *m = json_pack("[{s:s,s:s,s:s,s:[sss]},{s:s,s:s,s:s,s:[sssss]},{s:s,s:s,s:s,s:[ssssss]},"
                          "{s:s,s:s,s:s,s:[ssss]}]",
                          "destination", "/proc", "type", "proc", "source", "proc", "options",
                          "nosuid", "noexec", "nodev", "destination", "/dev", "type", "tmpfs",
                          "source", "tmpfs", "options", "nosuid", "noexec", "strictatime",
                          "mode=755", "size=65536", "destination", "/dev/pts", "type", "devpts",
                          "source", "devpts", "options", "nosuid", "noexec", "newinstance",
                          "ptmxmode=0666", "mode=0620", "gid=5", "destination", "/sys", "type",
                          "sysfs", "source", "sysfs", "options", "nosuid", "noexec", "nodev", "ro");

    if (s->host_image)
        oci_host_mounts(m);
    json_array_append_new(m, oci_bind(shm, "/dev/shm", false, true));
    json_array_append_new(m, oci_bind(tmp, "/tmp", false, false));
    json_array_append_new(m, oci_bind(var_tmp, "/var/tmp", false, false));
    json_array_append_new(m, oci_bind(s->hosts, "/etc/hosts", true, true));
    if (s->resolv != NULL)
        json_array_append_new(m, oci_bind(s->resolv, "/etc/resolv.conf", true, true));
    json_array_append_new(m, oci_bind(s->autodriver, "/.milonga/autodriver", true, false));
    return m;
}

static json_t *namespaces(void)
{
    /* network: with nothing in it but lo, and what oci_net.c adds */
    static const char *const types[] = {"pid", "mount", "ipc", "uts", "network", "cgroup"};
    json_t *list = json_array();

    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        json_array_append_new(list, json_pack("{s:s}", "type", types[i]));
    return list;
}

static json_t *masked(void)
{
    return json_pack("[sssssssssss]", "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys",
                     "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                     "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                     "/sys/devices/virtual/powercap");
}

char *oci_spec_text(const struct oci_spec *s)
{
    json_t *process = json_pack("{s:b,s:{s:i,s:i},s:[ss],s:[s],s:s,s:o,s:b}", "terminal", 0, "user",
                                "uid", 0, "gid", 0, "args", "/.milonga/autodriver", "--pipe", "env",
                                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                "cwd", "/", "capabilities", capabilities(), "noNewPrivileges", 1);
    json_t *lin = json_pack("{s:o,s:o,s:o,s:[sssss]}", "namespaces", namespaces(), "seccomp",
                            oci_seccomp(), "maskedPaths", masked(), "readonlyPaths", "/proc/bus",
                            "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger");
    json_t *root = json_pack("{s:s,s:o,s:{s:s,s:b},s:s,s:o,s:o}", "ociVersion", "1.0.0", "process",
                             process, "root", "path", "rootfs", "readonly", 0, "hostname",
                             "milonga", "mounts", mounts(s), "linux", lin);
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;

    if (text == NULL) /* our own constants: only memory can fail here, and that aborts everywhere */
        abort();
    json_decref(root);
    return text;
}
