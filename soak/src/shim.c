/* Stands between the agent and the C library: makes its disk fail or wait and its wall clock wrong, on command, and
 * counts its syncs. The command lies in a page that the soak program shares; the agent's binary is the real one.
 *
 * Only what lies in the spool's directory is touched. Raw system calls are not seen; the agent syncs, writes and asks
 * the wall clock by the C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct page {
  volatile uint64_t sync_ms;    /* every sync waits so long */
  volatile uint64_t sync_errno; /* and fails so */
  volatile uint64_t write_errno;
  volatile uint64_t name_errno; /* creating, renaming, removing */
  volatile int64_t wall_s;      /* added to CLOCK_REALTIME */
  volatile uint64_t read_errno;
  volatile uint64_t syncs;      /* counted here */
  volatile uint64_t failed;     /* how many calls were made to fail */
  volatile uint64_t written;    /* bytes given to write(2) and its like, in the spool */
};

static struct page nothing, *page = &nothing;
static const char *prefix;
static size_t prefix_len;

__attribute__((constructor)) static void begin(void) {
  const char *at = getenv("TFO_SOAK_PAGE");
  prefix = getenv("TFO_SOAK_DIR");
  if (!at || !prefix) return;
  prefix_len = strlen(prefix);
  int fd = open(at, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *shared = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (shared != MAP_FAILED) page = shared;
}

#define REAL(ret, name, ...) \
  static ret (*real)(__VA_ARGS__); \
  if (!real) real = (ret(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int ours(const char *path) { return prefix && path && strncmp(path, prefix, prefix_len) == 0; }

static int ours_fd(int fd) {
  char link[64], path[4096];
  if (!prefix) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return ours(path);
}

static int fails(uint64_t error) {
  __atomic_add_fetch(&page->failed, 1, __ATOMIC_RELAXED);
  errno = (int)error;
  return -1;
}

static int before_sync(int fd) {
  __atomic_add_fetch(&page->syncs, 1, __ATOMIC_RELAXED);
  if (!page->sync_ms && !page->sync_errno) return 0;
  if (!ours_fd(fd)) return 0;
  for (uint64_t waited = 0; waited < page->sync_ms; waited += 10) usleep(10000);
  return page->sync_errno ? fails(page->sync_errno) : 0;
}

int fsync(int fd) {
  REAL(int, fsync, int);
  return before_sync(fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
  REAL(int, fdatasync, int);
  return before_sync(fd) ? -1 : real(fd);
}

static ssize_t counted(ssize_t n) {
  if (n > 0) __atomic_add_fetch(&page->written, (uint64_t)n, __ATOMIC_RELAXED);
  return n;
}
ssize_t write(int fd, const void *data, size_t n) {
  REAL(ssize_t, write, int, const void *, size_t);
  if (!ours_fd(fd)) return real(fd, data, n);
  return page->write_errno ? fails(page->write_errno) : counted(real(fd, data, n));
}
ssize_t writev(int fd, const struct iovec *data, int n) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  if (!ours_fd(fd)) return real(fd, data, n);
  return page->write_errno ? fails(page->write_errno) : counted(real(fd, data, n));
}
/* Overwriting in place needs no space, so a full disk lets the slots be written. */
static int overwriting(void) { return page->write_errno == ENOSPC; }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
  REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
  if (!ours_fd(fd)) return real(fd, data, n, at);
  return page->write_errno && !overwriting() ? fails(page->write_errno) : counted(real(fd, data, n, at));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
  REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
  if (!ours_fd(fd)) return real(fd, data, n, at);
  return page->write_errno && !overwriting() ? fails(page->write_errno) : counted(real(fd, data, n, at));
}

ssize_t read(int fd, void *data, size_t n) {
  REAL(ssize_t, read, int, void *, size_t);
  return page->read_errno && ours_fd(fd) ? fails(page->read_errno) : real(fd, data, n);
}
ssize_t pread64(int fd, void *data, size_t n, off64_t at) {
  REAL(ssize_t, pread64, int, void *, size_t, off64_t);
  return page->read_errno && ours_fd(fd) ? fails(page->read_errno) : real(fd, data, n, at);
}
ssize_t pread(int fd, void *data, size_t n, off_t at) {
  REAL(ssize_t, pread, int, void *, size_t, off_t);
  return page->read_errno && ours_fd(fd) ? fails(page->read_errno) : real(fd, data, n, at);
}

static int names(const char *path) { return page->name_errno && ours(path) ? fails(page->name_errno) : 0; }
/* Removing is possible on a full disk. */
static int removes(const char *path) { return page->name_errno != ENOSPC ? names(path) : 0; }

static int opens(const char *path, int flags) {
  int writes = (flags & O_ACCMODE) != O_RDONLY;
  if (page->name_errno == ENOSPC) writes = flags & O_CREAT && access(path, F_OK) != 0;
  return writes ? names(path) : 0;
}
static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

int open(const char *path, int flags, ...) {
  REAL(int, open, const char *, int, ...);
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return opens(path, flags) ? -1 : real(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  REAL(int, open64, const char *, int, ...);
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return opens(path, flags) ? -1 : real(path, flags, mode);
}
int mkdir(const char *path, mode_t mode) {
  REAL(int, mkdir, const char *, mode_t);
  return names(path) ? -1 : real(path, mode);
}
int rename(const char *from, const char *to) {
  REAL(int, rename, const char *, const char *);
  return removes(from) ? -1 : real(from, to);
}
int unlink(const char *path) {
  REAL(int, unlink, const char *);
  return removes(path) ? -1 : real(path);
}
int unlinkat(int dir, const char *path, int flags) {
  REAL(int, unlinkat, int, const char *, int);
  if (page->name_errno && page->name_errno != ENOSPC && (*path == '/' ? ours(path) : ours_fd(dir)))
    return fails(page->name_errno);
  return real(dir, path, flags);
}
int ftruncate64(int fd, off64_t size) {
  REAL(int, ftruncate64, int, off64_t);
  return page->write_errno && page->write_errno != ENOSPC && ours_fd(fd) ? fails(page->write_errno) : real(fd, size);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  REAL(int, clock_gettime, clockid_t, struct timespec *);
  int result = real(clock, time);
  if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += page->wall_s;
  return result;
}
