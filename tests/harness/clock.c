/* Puts the time of day of one process so many seconds ahead of what it is as the file says that CLOCK names. Nothing else of its clocks. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t which, struct timespec *at) {
    long failed = syscall(SYS_clock_gettime, which, at);
    const char *name = getenv("CLOCK");
    if (failed || which != CLOCK_REALTIME || !name) return (int)failed;
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    char seconds[32] = {0};
    if (read(file, seconds, sizeof seconds - 1) > 0) at->tv_sec += strtol(seconds, NULL, 10);
    close(file);
    return 0;
}
