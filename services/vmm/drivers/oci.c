/* The oci driver: a fresh container by crun for each machine, nothing between. A machine is
 *
 *   <data_dir>/oci/<deployment>/<vmm>/<name>/   its bundle; rw is a tmpfs, rootfs an overlay of the
 * image's layers with its upper directory on that tmpfs
 *   <cgroup_parent>/<deployment>.<vmm>-<hash>/<name>   its control group, ours: crun sets no limits
 *
 * All mounts are in a mount namespace of this process, so that they go with it and its containers.
 * The container's program is the autodriver; its stdin and stdout are pipes to us, and it ends when
 * they do. So a vmm that is killed leaves directories and empty groups at most, and reap() knows
 * both by name.
 *
 * What a job writes counts twice: against disk_bytes, the size of the tmpfs, and against its
 * memory, in which a tmpfs lies (machine_room).
 *
 * Machines have no network but lo; with oci_network = slirp those whose shape says so have one by a
 * program of their own (oci_net.c). */

#include "services/vmm/drivers/oci_private.h"

#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/name.h"
#include "services/vmm/machine.h"
#include "wire/frame.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define HOST_DIR      ".host"
#define EMPTY_DIR     ".empty"
#define HOSTS_FILE    ".hosts"
#define RESOLV_FILE   ".resolv"
#define PROBE_NAME    "probe-0000-oci"
#define MEMORY_MIN_MB 16 /* crun needs about 4 while it starts */
#define OWN_PIDS      8  /* crun while it starts, and the autodriver */
#define REAP_MS       5000
#define PROBE_MS      15000

struct backend {
    const struct config *cfg;
    struct image_store *store;
    struct cgroup_tree *cgroups;
    char *crun;       /* path */
    char *slirp;      /* path; NULL: loopback only */
    char *autodriver; /* path */
    char *base;       /* path of the directory of bundles */
    int base_fd;
    int lock_fd;
    int host_fd;  /* the host image's root; -1: not offered */
    int empty_fd; /* an empty layer, for the probe */
};

struct oci_machine {
    struct oci_bundle bundle;
    struct image_use *image; /* NULL: host or empty */
    struct cgroup *group;
    struct oci_net net;
};

/* ---- open ---- */

static char *find_in_path(const char *program)
{
    const char *path = getenv("PATH");
    cleanup_free char *dirs =
        xstrdup(path != NULL && path[0] != '\0' ? path : "/usr/sbin:/usr/bin:/sbin:/bin");
    char *save = NULL;

    if (strchr(program, '/') != NULL)
        return access(program, X_OK) == 0 ? xstrdup(program) : NULL;
    for (char *d = strtok_r(dirs, ":", &save); d != NULL; d = strtok_r(NULL, ":", &save)) {
        cleanup_free char *full = xasprintf("%s/%s", d, program);

        if (access(full, X_OK) == 0)
            return TAKE_PTR(full);
    }
    return NULL;
}

/* An absolute path: crun looks from the bundle. */
static int find_autodriver(struct backend *b, struct error *err)
{
    cleanup_free char *path = NULL;
    int r = machine_autodriver(b->cfg, &path, err);

    if (r < 0)
        return r;
    b->autodriver = realpath(path, NULL);
    return b->autodriver != NULL
               ? 0
               : err_set_errno(err, ERR_PERMANENT, errno, "oci: autodriver %s", path);
}

static int find_network(struct backend *b, struct error *err)
{
    if (strcmp(b->cfg->oci_network, "slirp") != 0)
        return 0;
    b->slirp = find_in_path("slirp4netns");
    if (b->slirp == NULL)
        return err_set(err, ERR_PERMANENT, ENOENT,
                       "oci: there is no slirp4netns; apt-get install slirp4netns, or set "
                       "oci_network = none");
    if (access("/dev/net/tun", R_OK | W_OK) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno,
                             "oci: /dev/net/tun, which oci_network = slirp needs (modprobe tun)");
    return 0;
}

static int check_namespaces(struct error *err)
{
    static const char *const names[] = {"pid", "mnt", "ipc", "uts", "net", "cgroup"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        cleanup_free char *path = xasprintf("/proc/self/ns/%s", names[i]);

        if (access(path, F_OK) < 0)
            return err_set(err, ERR_PERMANENT, ENOTSUP, "oci: this kernel has no %s namespaces",
                           names[i]);
    }
    return 0;
}

static int enter_dir(int at, const char *name, struct error *err)
{
    int fd;

    if (mkdirat(at, name, 0711) < 0 && errno != EEXIST)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: cannot make %s", name);
    fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : err_set_errno(err, ERR_PERMANENT, errno, "oci: cannot open %s", name);
}

static int open_base(struct backend *b, const char *data_dir, const char *deployment,
                     const char *vmm, struct error *err)
{
    const char *names[] = {"oci", deployment, vmm};
    int fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: cannot open data_dir %s", data_dir);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        int next = enter_dir(fd, names[i], err);

        close(fd);
        if (next < 0)
            return next;
        fd = next;
    }
    b->base_fd = fd;
    b->base = xasprintf("%s/oci/%s/%s", data_dir, deployment, vmm);
    b->lock_fd = openat(fd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (b->lock_fd < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: cannot open %s/.lock", b->base);
    if (flock(b->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, ERR_PERMANENT, EBUSY,
                       "oci: another vmm uses %s; give each its own vmm_name or data_dir", b->base);
    return 0;
}

/* Directories and groups bear deployment and vmm, so that no vmm takes another's machines for
 * orphans. */
static int open_places(struct backend *b, struct error *err)
{
    const struct config *c = b->cfg;
    const char *deployment = c->deployment[0] != '\0' ? c->deployment : c->prefix;
    char host[NAME_MAX + 1] = "", hex[SHA256_HEX + 1];
    cleanup_free char *data_dir = NULL, *group = NULL;
    const char *vmm = c->vmm_name;
    const char *bad;
    int r;

    if (vmm[0] == '\0') {
        gethostname(host, sizeof(host) - 1);
        vmm = host;
    }
    bad = name_check_file(deployment, strlen(deployment));
    if (bad == NULL)
        bad = name_check_file(vmm, strlen(vmm));
    if (bad != NULL || deployment[0] == '.' || vmm[0] == '.')
        return err_set(err, ERR_PERMANENT, EINVAL, "oci: deployment \"%s\" or vmm_name \"%s\" %s",
                       deployment, vmm, bad != NULL ? bad : "begins with a dot");
    mkdir(c->data_dir, 0755);
    data_dir = realpath(c->data_dir, NULL);
    if (data_dir == NULL)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: data_dir %s", c->data_dir);
    r = open_base(b, data_dir, deployment, vmm, err);
    if (r < 0)
        return r;
    digest_hex(DIGEST_SHA256, data_dir, strlen(data_dir), hex);
    group = xasprintf("%s/%s.%s-%.8s", c->cgroup_parent, deployment, vmm, hex);
    r = cgroup_tree_open(group, &b->cgroups, err);
    return r < 0 ? r : image_store_open(data_dir, &b->store, err);
}

static int open_layers(struct backend *b, struct error *err)
{
    int r = oci_put_file(b->base_fd, HOSTS_FILE,
                         "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\tmilonga\n", err);

    if (r == 0)
        r = oci_put_file(b->base_fd, RESOLV_FILE, OCI_RESOLV, err);
    if (r < 0)
        return r;
    b->empty_fd = enter_dir(b->base_fd, EMPTY_DIR, err);
    if (b->empty_fd < 0)
        return b->empty_fd;
    if (!b->cfg->oci_host_image)
        return 0;
    r = oci_host_make(b->base_fd, HOST_DIR, err);
    if (r < 0)
        return r;
    b->host_fd = enter_dir(b->base_fd, HOST_DIR, err);
    return b->host_fd < 0 ? b->host_fd : 0;
}

static int initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                      int cancel_fd, struct machine **ret, struct error *err);
static void destroy(struct machine *m, int64_t deadline);
static int reap(struct backend *b, const char *name, struct error *err);

/* One machine of nothing but the autodriver, made and ended as all others will be: whatever this
 * host cannot give (a namespace, seccomp, overlays, limits) shows here, before a job is taken. */
static int probe(struct backend *b, struct error *err)
{
    struct machine_spec spec = {.shape = {.image = (char[]){"probe"},
                                          .digest = (char[]){""},
                                          .cores_milli = 1000,
                                          .memory_mb = 64,
                                          .pids = 16,
                                          .disk_bytes = 1 << 20,
                                          .network = b->slirp != NULL},
                                .name = PROBE_NAME};
    int64_t deadline = clock_mono_ms() + PROBE_MS;
    struct machine *m;
    char head[FRAME_HEAD];
    int r = reap(b, PROBE_NAME, err);

    if (r == 0)
        r = initialize(b, &spec, deadline, -1, &m, err);
    if (r == 0) {
        struct pollfd p = {.fd = m->out_fd, .events = POLLIN};

        if (poll(&p, 1, clock_until_ms(deadline)) != 1 ||
            read(m->out_fd, head, sizeof(head)) != sizeof(head) || head[4] != FRAME_READY)
            r = err_set(err, ERR_PERMANENT, EPROTO,
                        "%s does not say that it is ready; is it of this version?", b->autodriver);
        destroy(m, clock_mono_ms() + REAP_MS);
    }
    if (r < 0 && err != NULL)
        err->class = ERR_PERMANENT;
    return r < 0 ? err_wrap(err, "oci: cannot make a machine on this host") : 0;
}

static void oci_close(struct backend *b)
{
    int fds[] = {b->base_fd, b->lock_fd, b->host_fd, b->empty_fd};

    if (b->base_fd >= 0 && b->lock_fd >= 0 && b->empty_fd >= 0) {
        static const char *const own[] = {HOST_DIR, EMPTY_DIR, HOSTS_FILE, RESOLV_FILE};

        for (size_t i = 0; i < ARRAY_SIZE(own); i++)
            image_rmtree(b->base_fd, own[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (b->store != NULL)
        image_store_close(b->store);
    cgroup_tree_close(b->cgroups);
    free(b->crun);
    free(b->slirp);
    free(b->autodriver);
    free(b->base);
    free(b);
}

static int oci_open(const struct config *cfg, struct backend **ret, struct error *err)
{
    struct backend *b = xcalloc(1, sizeof(*b));
    int r;

    b->cfg = cfg;
    b->base_fd = b->lock_fd = b->host_fd = b->empty_fd = -1;
    b->crun = find_in_path(cfg->oci_crun);
    if (geteuid() != 0)
        r = err_set(err, ERR_PERMANENT, EPERM,
                    "oci: needs root, for namespaces, mounts and cgroups");
    else if (b->crun == NULL)
        r = err_set(err, ERR_PERMANENT, ENOENT,
                    "oci: there is no %s; apt-get install crun, or set oci_crun", cfg->oci_crun);
    else
        r = find_autodriver(b, err);
    if (r == 0)
        r = find_network(b, err);
    if (r == 0)
        r = check_namespaces(err);
    if (r == 0)
        r = oci_check_crun(b->crun, err);
    if (r == 0) /* before any directory is opened: overlayfs takes no layer of another namespace */
        r = oci_private_mounts(err);
    if (r == 0)
        r = open_places(b, err);
    if (r == 0 && cgroup_tree_beside(b->cgroups) != NULL)
        r = oci_hide(cgroup_tree_beside(b->cgroups), err);
    if (r == 0)
        r = open_layers(b, err);
    if (r == 0)
        r = probe(b, err);
    if (r < 0) {
        oci_close(b);
        return r;
    }
    log_event(LOG_INFO_, "oci.open", "crun", b->crun, "bundles", b->base, "cgroups",
              cgroup_tree_mode(b->cgroups), "autodriver", b->autodriver, NULL);
    *ret = b;
    return 0;
}

static int health(struct backend *b, struct error *err)
{
    struct stat st;

    if (access(b->crun, X_OK) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: %s", b->crun);
    if (access(b->autodriver, X_OK) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "oci: %s", b->autodriver);
    if (fstat(b->base_fd, &st) < 0 || st.st_nlink == 0)
        return err_set(err, ERR_PERMANENT, ENOENT, "oci: %s was removed; restart the vmm", b->base);
    return 0;
}

/* ---- images ---- */

struct images_arg {
    void (*each)(void *arg, const struct image_entry *e);
    void *arg;
};

static void tell_image(void *arg, const struct image_info *i)
{
    struct images_arg *a = arg;
    size_t len = strlen(i->name);

    a->each(a->arg, &(struct image_entry){i->name, i->digest});
    if (len > 7 && strcmp(i->name + len - 7, ":latest") == 0) { /* a job may leave it out */
        cleanup_free char *bare = xstrndup(i->name, len - 7);

        a->each(a->arg, &(struct image_entry){bare, i->digest});
    }
}

static int images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                  void *arg, struct error *err)
{
    struct images_arg a = {each, arg};

    if (b->host_fd >= 0) {
        cleanup_free char *names = xstrdup(b->cfg->oci_host_image_alias);
        char *save = NULL;

        each(arg, &(struct image_entry){OCI_HOST, OCI_HOST});
        for (char *n = strtok_r(names, ", ", &save); n != NULL; n = strtok_r(NULL, ", ", &save))
            each(arg, &(struct image_entry){n, OCI_HOST});
    }
    return image_list(b->store, tell_image, &a, err);
}

static int import(struct backend *b, const char *path, const char *name, struct error *err)
{
    return image_import(b->store, path, name, NULL, err);
}

static int remove_image(struct backend *b, const char *name, struct error *err)
{
    int rc = image_remove(b->store, name, err);

    return rc == -ENOENT ? 0 : rc;
}

/* ---- machines ---- */

static void bundle_done(struct backend *b, struct oci_machine *o, const char *name)
{
    if (o->bundle.fd >= 0)
        close(o->bundle.fd);
    o->bundle.fd = -1;
    if (o->bundle.path != NULL) {
        oci_unmount(o->bundle.path);
        CRASHPOINT("oci", "unmount", "after");
        image_rmtree(b->base_fd, name);
    }
    free(o->bundle.path);
    o->bundle.path = NULL;
}

static int make_bundle(struct backend *b, struct oci_machine *o, const struct machine_spec *spec,
                       struct error *err)
{
    bool host = strcmp(spec->shape.digest, OCI_HOST) == 0;
    cleanup_free char *hosts = xasprintf("%s/" HOSTS_FILE, b->base);
    cleanup_free char *resolv = xasprintf("%s/" RESOLV_FILE, b->base);
    bool network = spec->shape.network && b->slirp != NULL;
    cleanup_free char *text = NULL;
    struct oci_room room;
    struct oci_spec s;
    int r;

    machine_room(&spec->shape, &room.bytes, &room.inodes);
    if (mkdirat(b->base_fd, spec->name, 0711) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot make %s/%s", b->base,
                             spec->name);
    CRASHPOINT("oci", "bundle", "after");
    o->bundle.path = xasprintf("%s/%s", b->base, spec->name);
    o->bundle.fd = openat(b->base_fd, spec->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (o->bundle.fd < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot open %s", o->bundle.path);
    if (host && b->host_fd < 0)
        return err_set(err, ERR_REFUSED, ENOENT,
                       "oci: the host image is not offered; see oci_host_image");
    if (!host && spec->shape.digest[0] != '\0') {
        r = image_acquire(b->store, spec->shape.digest, &o->image, err);
        if (r < 0)
            return r;
    }
    s = (struct oci_spec){o->bundle.path, b->autodriver, hosts, network ? resolv : NULL, host};
    text = oci_spec_text(&s);
    r = oci_put_file(o->bundle.fd, "config.json", text, err);
    if (r < 0)
        return r;
    return oci_mount(&o->bundle,
                     o->image != NULL ? o->image->layer_fds
                     : host           ? &b->host_fd
                                      : &b->empty_fd,
                     o->image != NULL ? o->image->layer_ct : 1, &room, err);
}

static int start(struct backend *b, struct machine *m, int64_t deadline, int cancel_fd,
                 struct error *err)
{
    struct oci_machine *o = m->priv;
    const struct machine_shape *s = &m->spec.shape;
    struct cgroup_limits limits = {s->cores_milli, (uint64_t)s->memory_mb << 20,
                                   s->pids > 0 ? s->pids + OWN_PIDS : 0};
    int in[2], out[2], r;

    CRASHPOINT("oci", "mount", "after");
    r = cgroup_new(b->cgroups, m->spec.name, &limits, &o->group, err);
    if (r < 0)
        return r;
    CRASHPOINT("oci", "cgroup", "after");
    if (pipe2(in, O_CLOEXEC) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot make a pipe");
    m->in_fd = in[1];
    if (pipe2(out, O_CLOEXEC) < 0) {
        r = err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot make a pipe");
        close(in[0]);
        return r;
    }
    m->out_fd = out[0];
    fcntl(m->in_fd, F_SETFL, O_NONBLOCK);
    fcntl(m->out_fd, F_SETFL, O_NONBLOCK);
    r = oci_run(b->crun, &o->bundle, m->spec.name, o->group, in[0], out[1], deadline, cancel_fd,
                err);
    close(in[0]);
    close(out[1]);
    if (r == 0 && s->network && b->slirp != NULL)
        r = oci_net_start(b->slirp, &o->bundle, o->group, deadline, cancel_fd, &o->net, err);
    return r;
}

static int initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                      int cancel_fd, struct machine **ret, struct error *err)
{
    const char *bad = name_check_file(spec->name, strlen(spec->name));
    struct oci_machine *o;
    struct machine *m;
    int r;

    if (bad != NULL || spec->name[0] == '.')
        return err_set(err, ERR_BUG, EINVAL, "oci: machine name \"%s\" %s", spec->name,
                       bad != NULL ? bad : "begins with a dot");
    if (spec->shape.memory_mb > 0 && spec->shape.memory_mb < MEMORY_MIN_MB)
        return err_set(
            err, ERR_REFUSED, ENOMEM,
            "oci: a memory limit of %u MB is too little to start a machine; %d MB is enough",
            spec->shape.memory_mb, MEMORY_MIN_MB);
    m = machine_new(&driver_oci, b, spec);
    o = xcalloc(1, sizeof(*o));
    o->bundle.fd = -1;
    o->net = (struct oci_net){-1, -1};
    m->priv = o;
    r = make_bundle(b, o, spec, err);
    if (r == 0)
        r = start(b, m, deadline, cancel_fd, err);
    if (r < 0) {
        destroy(m, clock_mono_ms() + REAP_MS);
        return r;
    }
    m->made_ms = clock_mono_ms();
    *ret = m;
    return 0;
}

static ssize_t oci_read(struct machine *m, void *data, size_t len)
{
    ssize_t n = read(m->out_fd, data, len);

    return n < 0 ? -errno : n;
}

static void destroy(struct machine *m, int64_t deadline)
{
    struct oci_machine *o = m->priv;
    struct backend *b = m->backend;
    struct error err = ERROR_INIT;
    int r = 0;

    oci_net_stop(&o->net);
    if (o->group != NULL) {
        r = cgroup_kill(o->group, deadline, &err);
        CRASHPOINT("oci", "kill", "after");
        if (r == 0)
            r = cgroup_remove(o->group, deadline, &err);
        CRASHPOINT("oci", "cgroup_removed", "after");
        cgroup_free(o->group);
    }
    /* also when something still lives: the mounts are then gone from here, and the rest is the
     * reaper's */
    bundle_done(b, o, m->spec.name);
    image_release(o->image);
    if (r < 0)
        log_event(LOG_WARN_, "machine.left", "name", m->spec.name, "reason", err.msg, NULL);
    free(o);
    machine_free(m);
}

static enum machine_limit limit_hit(struct machine *m)
{
    struct oci_machine *o = m->priv;

    return m->spec.shape.memory_mb > 0 && cgroup_oom(o->group) ? MACHINE_LIMIT_MEMORY
                                                               : MACHINE_LIMIT_NONE;
}

static bool loopback_only(const struct backend *b)
{
    return b->slirp == NULL;
}

static int usage(struct machine *m, struct machine_usage *ret)
{
    struct oci_machine *o = m->priv;

    ret->memory_hit = m->spec.shape.memory_mb > 0 && cgroup_oom(o->group);
    return cgroup_usage(o->group, &ret->cpu_us, &ret->peak_bytes);
}

/* ---- what is there ---- */

struct list_arg {
    struct backend *b;
    void (*each)(void *arg, const char *name);
    void *arg;
};

/* Groups without a bundle; the others were told. */
static void tell_group(void *arg, const char *name)
{
    struct list_arg *a = arg;

    if (faccessat(a->b->base_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        a->each(a->arg, name);
}

static int list(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
                struct error *err)
{
    struct list_arg a = {b, each, arg};
    int fd = openat(b->base_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (d == NULL) {
        int code = errno;

        if (fd >= 0)
            close(fd);
        return err_set_errno(err, ERR_TEMPORARY, code, "oci: cannot list %s", b->base);
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            each(arg, e->d_name);
    closedir(d);
    return cgroup_tree_each(b->cgroups, tell_group, &a, err);
}

static int reap(struct backend *b, const char *name, struct error *err)
{
    const char *bad = name_check_file(name, strlen(name));
    cleanup_free char *path = xasprintf("%s/%s", b->base, name);
    int r;

    if (bad != NULL || name[0] == '.')
        return err_set(err, ERR_REFUSED, EINVAL, "oci: machine name \"%s\" %s", name,
                       bad != NULL ? bad : "begins with a dot");
    r = cgroup_end(b->cgroups, name, clock_mono_ms() + REAP_MS, err);
    if (r < 0)
        return r;
    oci_unmount(path);
    r = image_rmtree(b->base_fd, name);
    return r < 0 ? err_set_errno(err, ERR_TEMPORARY, -r, "oci: cannot remove %s", path) : 0;
}

const struct driver driver_oci = {
    .name = "oci",
    .loopback_only = loopback_only,
    .open = oci_open,
    .close = oci_close,
    .health = health,
    .probe = probe,
    .images = images,
    .initialize = initialize,
    .read = oci_read,
    .destroy = destroy,
    .limit_hit = limit_hit,
    .usage = usage,
    .list = list,
    .reap = reap,
    .import = import,
    .remove_image = remove_image,
};
