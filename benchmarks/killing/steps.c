/* Counts the calls by which a process changes files, and kills it at one of them.
   Loaded before the system's library (LD_PRELOAD), whose calls it makes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

static long made, fatal;
static int halves;

void kill_at_call(long call, int half) { fatal = call; halves = half; made = 0; }
long calls_made(void) { return made; }

static int is_last(void) { return __atomic_add_fetch(&made, 1, __ATOMIC_SEQ_CST) == fatal; }
static void end(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define SYSTEMS(result, name, ...) \
    static result (*systems)(__VA_ARGS__); \
    if (!systems) systems = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define WRITES_AT(name) \
    ssize_t name(int file, const void *bytes, size_t number, off64_t at) { \
        SYSTEMS(ssize_t, #name, int, const void *, size_t, off64_t); \
        if (is_last()) { if (halves) systems(file, bytes, number / 2, at); end(); } \
        return systems(file, bytes, number, at); }
WRITES_AT(pwrite64)
WRITES_AT(pwrite)

ssize_t write(int file, const void *bytes, size_t number) {
    SYSTEMS(ssize_t, "write", int, const void *, size_t);
    if (is_last()) { if (halves) systems(file, bytes, number / 2); end(); }
    return systems(file, bytes, number);
}

#define CUTS(name) \
    int name(int file, off64_t length) { \
        SYSTEMS(int, #name, int, off64_t); \
        if (is_last()) end(); \
        return systems(file, length); }
CUTS(ftruncate)
CUTS(ftruncate64)

#define OF_FILE(name) \
    int name(int file) { \
        SYSTEMS(int, #name, int); \
        if (is_last()) end(); \
        return systems(file); }
OF_FILE(fsync)
OF_FILE(fdatasync)

#define OF_PATH(name) \
    int name(const char *path) { \
        SYSTEMS(int, #name, const char *); \
        if (is_last()) end(); \
        return systems(path); }
OF_PATH(unlink)
OF_PATH(rmdir)

int rename(const char *from, const char *to) {
    SYSTEMS(int, "rename", const char *, const char *);
    if (is_last()) end();
    return systems(from, to);
}
