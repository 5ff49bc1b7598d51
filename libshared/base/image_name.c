#include "base/image_name.h"

#include "base/mem.h"
#include "base/name.h"

#include <string.h>
#include <strings.h>

static const char domain[] = "milonga.invalid";
static const char tenants[] = ".tenant.milonga.invalid/";
static const char kept[] = "kept.milonga.invalid/";

/* Is the registry (or first folder) the domain, or below it? With a port or in capitals, too: an
 * engine may take that for the same. */
static bool is_reserved(const char *name, size_t name_len)
{
    size_t len = 0, tail = sizeof(domain) - 1;

    while (len < name_len && !strchr("/:@", name[len]))
        len++;
    if (len < tail || strncasecmp(name + len - tail, domain, tail) != 0)
        return false;
    return len == tail || name[len - tail - 1] == '.';
}

bool image_name_is_reserved(const char *name)
{
    return is_reserved(name, strlen(name));
}

const char *image_name_check(const char *s, size_t len)
{
    const char *wrong = name_check_image(s, len);

    return !wrong && is_reserved(s, len) ? "is below milonga.invalid, which is reserved" : wrong;
}

/* A host name has no '_', and a tenant's id no capital. */
char *image_name_own(const char *tenant, const char *name)
{
    char *full = xasprintf("%s%s%s", tenant, tenants, name);

    for (char *p = full; *p && *p != '.'; p++)
        if (*p == '_')
            *p = 'U';
    return full;
}

/* May a name of an image have it in it? */
static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != '\0' && strchr("0123456789._-/:@", c));
}

const char *image_name_shown(const char *full, const char *tenant)
{
    size_t whose = strcspn(full, "."), skip = sizeof(tenants) - 1;

    if (tenant && image_name_is_kept(full))
        return NULL;
    if (strncmp(full + whose, tenants, skip) != 0)
        return full;
    if (tenant && strlen(tenant) != whose)
        return NULL;
    for (size_t i = 0; tenant && i < whose; i++)
        if (full[i] != (tenant[i] == '_' ? 'U' : tenant[i]))
            return NULL;
    return full + whose + skip;
}

void image_name_hide(char *text)
{
    static const char hidden[] = "[image]";
    char *to = text;

    for (const char *p = text; *p;) {
        size_t len = 0, name = 0;

        while (name_char(p[len]))
            len++;
        while (name < len && strncasecmp(p + name, domain, sizeof(domain) - 1) != 0)
            name++;
        bool hide = len - name >= sizeof(domain) - 1; /* which is longer than what stands for it */
        size_t ct = hide ? sizeof(hidden) - 1 : len ? len : 1;
        memmove(to, hide ? hidden : p, ct);
        to += ct;
        p += len ? len : 1;
    }
    *to = '\0';
}

char *image_name_kept(const char *digest)
{
    char *name = xasprintf("%s%s", kept, digest);

    for (char *p = name; *p; p++)
        if (*p == ':')
            *p = '-';
    return name;
}

bool image_name_is_kept(const char *name)
{
    return strncmp(name, kept, sizeof(kept) - 1) == 0;
}
