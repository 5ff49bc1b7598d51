/* What doctor finds on this host: configuration, disk, and whether the driver can make a machine.
 */

#include "client/doctor.h"

#include "base/clock.h"
#include "base/mem.h"
#include "services/vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define KEY_MIN       16
#define SPACE_MIN_PCT 5
#define FDS_BESIDES   256 /* of an api, besides its connections */

/* ---- configuration ---- */

static void check_keys(struct doctor *d)
{
    unsigned weak = 0;

    if (d->cfg->key_ct == 0) {
        doctor_fault(d, "config.keys",
                     "set keys = tenant:key (or RESTFUL_KEY), the key from: openssl rand -hex 24",
                     "no frontend has a key");
        return;
    }
    for (size_t i = 0; i < d->cfg->key_ct; i++)
        weak += strlen(d->cfg->key_list[i].key) < KEY_MIN;
    if (weak > 0)
        doctor_warning(d, "config.keys", "take longer ones: openssl rand -hex 24",
                       "%u of %zu keys are shorter than %d characters", weak, d->cfg->key_ct,
                       KEY_MIN);
    else
        doctor_ok(d, "config.keys", "%zu keys", d->cfg->key_ct);
}

static void check_mode(struct doctor *d)
{
    const char *path = d->client->config_path;
    struct stat st;

    if (path == NULL || stat(path, &st) < 0)
        return;
    if ((st.st_mode & 0007) != 0)
        doctor_warning(d, "config.mode", "chmod o-rwx it",
                       "%s can be read by all users (mode %04o), and it holds keys", path,
                       (unsigned)st.st_mode & 07777);
    else
        doctor_ok(d, "config.mode", "%s", path);
}

static void check_descriptors(struct doctor *d)
{
    struct rlimit limit;
    long long need = (long long)d->cfg->max_connections + FDS_BESIDES;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max != RLIM_INFINITY &&
        (long long)limit.rlim_max < need)
        doctor_warning(d, "config.descriptors",
                       "raise it (LimitNOFILE= of the unit, ulimit -n) or lower max_connections",
                       "%lld descriptors may be open, max_connections = %lld needs %lld",
                       (long long)limit.rlim_max, (long long)d->cfg->max_connections, need);
    else
        doctor_ok(d, "config.descriptors", "enough for max_connections = %lld",
                  (long long)d->cfg->max_connections);
}

void doctor_config(struct doctor *d)
{
    check_mode(d);
    check_keys(d);
    check_descriptors(d);
}

/* ---- disk ---- */

static bool is_writable(const char *dir)
{
    cleanup_free char *name = xasprintf("%s/.doctor-XXXXXX", dir);
    int fd = mkostemp(name, O_CLOEXEC);

    if (fd < 0)
        return false;
    close(fd);
    unlink(name);
    return true;
}

static void check_space(struct doctor *d, const char *dir)
{
    struct statvfs fs;

    if (statvfs(dir, &fs) < 0)
        return;
    if (fs.f_bavail * 100 < fs.f_blocks * SPACE_MIN_PCT)
        doctor_fault(d, "disk.space", "make room, or shorten dead_max_age_s",
                     "the disk of %s is full but for %lld MB", dir,
                     (long long)(fs.f_bavail * fs.f_frsize / 1000000));
    else if (fs.f_files > 0 && fs.f_favail * 100 < fs.f_files * SPACE_MIN_PCT)
        doctor_fault(d, "disk.inodes", "make room, or shorten dead_max_age_s",
                     "the disk of %s has only %lld inodes left", dir, (long long)fs.f_favail);
    else
        doctor_ok(d, "disk.space", "%lld MB free",
                  (long long)(fs.f_bavail * fs.f_frsize / 1000000));
}

void doctor_disk(struct doctor *d)
{
    const char *dir = d->cfg->data_dir;
    cleanup_free char *store =
        d->cfg->store[0] != '\0' ? xstrdup(d->cfg->store) : xasprintf("%s/store", dir);
    struct stat st;

    if (stat(dir, &st) < 0) {
        doctor_fault(d, "disk.data_dir",
                     "make it, for the account that the services run as, or set data_dir",
                     "there is no data_dir %s (%s)", dir, strerror(errno));
        return;
    }
    if (!is_writable(dir))
        doctor_fault(d, "disk.data_dir",
                     "give it to the account that the services run as, or call doctor as that",
                     "nothing can be written to data_dir %s (%s)", dir, strerror(errno));
    else
        doctor_ok(d, "disk.data_dir", "%s", dir);
    check_space(d, dir);
    if (strncmp(store, "http", 4) == 0)
        return;
    if (stat(store, &st) == 0 && !is_writable(store))
        doctor_fault(d, "disk.store", "give it to the account that the services run as",
                     "nothing can be written to the store %s (%s)", store, strerror(errno));
    else
        doctor_ok(d, "disk.store", "%s", store);
}

/* ---- driver ---- */

static void check_autodriver(struct doctor *d)
{
    struct error err = ERROR_INIT;
    cleanup_free char *path = NULL;

    if (machine_autodriver(d->cfg, &path, &err) < 0)
        doctor_fault(d, "driver.autodriver", "install it beside milonga-vmm, or set autodriver",
                     "%s", err.msg);
    else
        doctor_ok(d, "driver.autodriver", "%s", path);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

/* The driver itself says what is missing: it is opened as a vmm would, but in a directory of its
 * own and under a name of its own, and makes a machine of nothing but the autodriver where it can.
 */
static void try_driver(struct doctor *d, const struct driver *driver)
{
    char dir[] = "/tmp/milonga-doctor.XXXXXX";
    char name[] = "doctor";
    struct config cfg = *d->cfg;
    struct error err = ERROR_INIT;
    struct backend *b = NULL;
    int rc;

    if (mkdtemp(dir) == NULL) {
        doctor_fault(d, "driver.machine", "make /tmp writable", "cannot make %s: %s", dir,
                     strerror(errno));
        return;
    }
    cfg.data_dir = dir;
    cfg.vmm_name = name;
    rc = driver->open(&cfg, &b, &err);
    if (rc == 0 && (rc = driver->health(b, &err)) == 0 && driver->probe != NULL)
        rc = driver->probe(b, &err);
    if (rc < 0)
        doctor_fault(d, "driver.machine",
                     "do what it says; the log of milonga-vmm has the same sentence",
                     "driver %s: %s", driver->name, err.msg);
    else
        doctor_ok(d, "driver.machine", "driver %s can make machines", driver->name);
    if (b != NULL)
        driver->close(b);
    nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void doctor_driver(struct doctor *d)
{
    const struct driver *driver = driver_find(d->cfg->driver);

    if (driver == NULL) {
        doctor_fault(d, "driver.name", "set driver to one that this program has",
                     "there is no driver %s", d->cfg->driver);
        return;
    }
    check_autodriver(d);
    if (geteuid() != 0 && strcmp(driver->name, "null") != 0)
        doctor_warning(d, "driver.machine", "call doctor as root on each host of a vmm",
                       "only root can try driver %s", driver->name);
    else
        try_driver(d, driver);
}
