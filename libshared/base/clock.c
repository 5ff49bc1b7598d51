#include "base/clock.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

static int64_t now_ms(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t clock_mono_ms(void)
{
    return now_ms(CLOCK_MONOTONIC);
}

int64_t clock_wall_ms(void)
{
    return now_ms(CLOCK_REALTIME);
}

int clock_until_ms(int64_t deadline_mono_ms)
{
    if (deadline_mono_ms == CLOCK_NEVER)
        return -1;
    int64_t now = clock_mono_ms();
    if (deadline_mono_ms <= now)
        return 0;
    /* now is never negative, so this cannot overflow */
    int64_t left = deadline_mono_ms - now;
    return left > INT_MAX ? INT_MAX : (int)left;
}

/* Not ctime_r: that one follows no locale either, but has no bound on the buffer. */
static void format_ctime(const struct tm *tm, char *buf, size_t size)
{
    static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

    snprintf(buf, size, "%s %s%3d %02d:%02d:%02d %d", days[tm->tm_wday], months[tm->tm_mon],
             tm->tm_mday, tm->tm_hour, tm->tm_min, tm->tm_sec, tm->tm_year + 1900);
}

static time_t whole_seconds(int64_t wall_ms)
{
    return (time_t)(wall_ms / 1000 - (wall_ms % 1000 < 0));
}

void clock_ctime_utc(int64_t wall_ms, char *buf, size_t size)
{
    time_t t = whole_seconds(wall_ms);
    struct tm tm = {0};

    if (!gmtime_r(&t, &tm))
        tm = (struct tm){.tm_mday = 1, .tm_year = 70, .tm_wday = 4};
    format_ctime(&tm, buf, size);
}

void clock_ctime_local(int64_t wall_ms, char *buf, size_t size)
{
    time_t t = whole_seconds(wall_ms);
    struct tm tm = {0};

    if (!localtime_r(&t, &tm))
        tm = (struct tm){.tm_mday = 1, .tm_year = 70, .tm_wday = 4};
    format_ctime(&tm, buf, size);
}

int64_t clock_backoff_ms(unsigned tries, int64_t base_ms, int64_t cap_ms)
{
    if (base_ms < 0)
        base_ms = 0;
    int64_t high = base_ms;
    for (unsigned i = 0; i < tries && high < cap_ms; i++)
        high = high > INT64_MAX / 2 ? cap_ms : high * 2;
    if (high > cap_ms)
        high = cap_ms;
    int64_t low = base_ms / 2;
    if (high <= low)
        return high < 0 ? 0 : high;

    uint64_t r;
    /* jitter only has to differ between processes, so a failure may fall back on the clock */
    if (getrandom(&r, sizeof(r), GRND_NONBLOCK) != (ssize_t)sizeof(r)) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        r = (uint64_t)ts.tv_nsec * 2654435761u;
    }
    return low + (int64_t)(r % (uint64_t)(high - low + 1));
}
