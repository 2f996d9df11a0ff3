/* Counts the calls by which a process changes files, and kills it at one of them.
   Preloaded (LD_PRELOAD); it passes each call on to the C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

static long made, kill_at;
static int writes_half;

void kill_at_call(long call, int half) { kill_at = call; writes_half = half; made = 0; }
long calls_made(void) { return made; }

static int is_last(void) { return __atomic_add_fetch(&made, 1, __ATOMIC_SEQ_CST) == kill_at; }
static void end(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define NEXT(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define WRITES_AT(name) \
    ssize_t name(int file, const void *bytes, size_t number, off64_t at) { \
        NEXT(ssize_t, #name, int, const void *, size_t, off64_t); \
        if (is_last()) { if (writes_half) next(file, bytes, number / 2, at); end(); } \
        return next(file, bytes, number, at); }
WRITES_AT(pwrite64)
WRITES_AT(pwrite)

ssize_t write(int file, const void *bytes, size_t number) {
    NEXT(ssize_t, "write", int, const void *, size_t);
    if (is_last()) { if (writes_half) next(file, bytes, number / 2); end(); }
    return next(file, bytes, number);
}

#define TRUNCATES(name) \
    int name(int file, off64_t length) { \
        NEXT(int, #name, int, off64_t); \
        if (is_last()) end(); \
        return next(file, length); }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)

#define OF_FILE(name) \
    int name(int file) { \
        NEXT(int, #name, int); \
        if (is_last()) end(); \
        return next(file); }
OF_FILE(fsync)
OF_FILE(fdatasync)

#define OF_PATH(name) \
    int name(const char *path) { \
        NEXT(int, #name, const char *); \
        if (is_last()) end(); \
        return next(path); }
OF_PATH(unlink)
OF_PATH(rmdir)

int rename(const char *from, const char *to) {
    NEXT(int, "rename", const char *, const char *);
    if (is_last()) end();
    return next(from, to);
}
