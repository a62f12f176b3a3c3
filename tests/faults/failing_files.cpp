// Preloaded (LD_PRELOAD) into a program, makes its n-th step of writing a file fail, or kills it there.
//
// A step is a call on a file to write whose name has ".partial" in it: open, fwrite, fflush, fclose, posix_fallocate;
// and fsync and rename. FAIL_AT says which, from 1 on; FAIL_WITH is the number of an error, such as ENOSPC, or 0 for
// SIGKILL. The file FAIL_COUNT, if given, gets the number of steps as they are taken.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cerrno>

namespace {

bool is_partial(const char* path) { return path != nullptr && strstr(path, ".partial") != nullptr; }

bool is_partial(int descriptor) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return false;
  path[size] = '\0';
  return is_partial(path);
}

bool is_written(FILE* file) {
  const int descriptor = fileno(file);
  return is_partial(descriptor) && (fcntl(descriptor, F_GETFL) & O_ACCMODE) != O_RDONLY;
}

template <typename Function>
Function next(Function, const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

/// Whether this step is to fail.
bool fails() {
  static int steps = 0;
  ++steps;
  if (const char* const count = getenv("FAIL_COUNT")) {
    const int file = next(::open, "open")(count, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dprintf(file, "%d", steps);
    close(file);
  }
  const char* const at = getenv("FAIL_AT");
  if (at == nullptr || atoi(at) != steps) return false;
  const int error = atoi(getenv("FAIL_WITH"));
  if (error == 0) kill(getpid(), SIGKILL);
  errno = error;
  return true;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if ((flags & O_ACCMODE) != O_RDONLY && is_partial(path) && fails()) return -1;
  return next(::open, "open")(path, flags, mode);
}

size_t fwrite(const void* data, size_t size, size_t count, FILE* file) {
  if (is_written(file) && fails()) return 0;
  return next(::fwrite, "fwrite")(data, size, count, file);
}

int fflush(FILE* file) {
  if (file != nullptr && is_written(file) && fails()) return EOF;
  return next(::fflush, "fflush")(file);
}

int fsync(int descriptor) {
  if (is_partial(descriptor) && fails()) return -1;
  return next(::fsync, "fsync")(descriptor);
}

int fclose(FILE* file) {
  const bool is_to_fail = is_written(file) && fails();
  const int error = errno, result = next(::fclose, "fclose")(file);
  if (!is_to_fail) return result;
  errno = error;
  return EOF;
}

int posix_fallocate(int descriptor, off_t offset, off_t size) {
  if (is_partial(descriptor) && fails()) return errno;
  return next(::posix_fallocate, "posix_fallocate")(descriptor, offset, size);
}

int rename(const char* from, const char* to) {
  if (is_partial(from) && fails()) return -1;
  return next(::rename, "rename")(from, to);
}
}
