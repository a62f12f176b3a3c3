#include "files/new_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <exception>
#include <filesystem>
#include <optional>
#include <streambuf>
#include <system_error>
#include <utility>

#include <c10/util/Exception.h>

namespace it3::detail {
namespace {

namespace fs = std::filesystem;

/// Where a path leads to, through links, whether or not there is a file.
fs::path followed(fs::path path) {
  std::error_code error;
  constexpr int most_links = 40;  // Linux's own limit
  for (int i = 0; i < most_links && fs::is_symlink(path, error); ++i) {
    path = path.parent_path() / fs::read_symlink(path, error);  // an absolute one stands for itself
  }
  return path;
}

/// What the file that is there is like; nothing if there is none. Raises if it cannot be replaced.
std::optional<struct stat> old_file(const std::string& target, const std::string& path) {
  struct stat status = {};
  if (::stat(target.c_str(), &status) != 0) return std::nullopt;
  TORCH_CHECK(!S_ISDIR(status.st_mode), "cannot write '", path, "': it is a folder; give the name of a file");
  TORCH_CHECK(
      S_ISREG(status.st_mode), "cannot write '", path,
      "': it is a device, a pipe or a socket; give the name of a file that can be replaced");
  TORCH_CHECK(::access(target.c_str(), W_OK) == 0, "cannot write '", path, "': the file exists and is write-protected");
  return status;
}

/// A short name, which starts with a dot, of the process's own, with the suffix by which libraries know the format.
std::string partial_name(const fs::path& target) {
  static std::atomic<unsigned> files = 0;  // in this process
  const std::string name = c10::str(".partial-", ::getpid(), "-", files++, target.extension().string());
  return (target.parent_path() / name).string();
}

/// Passes on what is written, and keeps the first failure to itself.
class Swallowing : public std::streambuf {
 public:
  explicit Swallowing(NewFile& file) : file_(file) {}

  std::exception_ptr error() const { return error_; }

 protected:
  std::streamsize xsputn(const char* data, std::streamsize size) override {
    if (error_ == nullptr) {
      try {
        file_.write(data, static_cast<std::size_t>(size));
      } catch (...) {
        error_ = std::current_exception();
      }
    }
    return size;
  }
  int_type overflow(int_type c) override {
    const char byte = traits_type::to_char_type(c);
    xsputn(&byte, 1);
    return traits_type::not_eof(c);
  }

 private:
  NewFile& file_;
  std::exception_ptr error_;
};

/// Has the disk keep the names in a folder, where file system and rights allow that. What is renamed is renamed.
void sync_folder(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

NewFile::NewFile(const std::string& path, const std::string& kept_as)
    : path_(path), target_(followed(path).string()), is_to_stay_(!kept_as.empty()) {
  TORCH_CHECK(!path.empty(), "cannot write a file without a name");
  const auto old = old_file(target_, path_);
  const int descriptor = is_to_stay_ ? open_kept(kept_as) : create();
  // The owner first, which takes rights away; only root can.
  if (old && ::fchown(descriptor, old->st_uid, old->st_gid) == 0) ::fchmod(descriptor, old->st_mode & 07777U);
  file_ = ::fdopen(descriptor, "r+b");
  if (file_ == nullptr) {
    ::close(descriptor);
    discard();
  }
  check(file_ != nullptr);
}

int NewFile::create() {
  int descriptor = -1;
  do {
    partial_ = partial_name(target_);
    descriptor = ::open(partial_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
  } while (descriptor < 0 && errno == EEXIST);  // left behind by a process that was killed
  if (descriptor < 0) partial_.clear();
  check(descriptor >= 0);
  return descriptor;
}

int NewFile::open_kept(const std::string& kept_as) {
  partial_ = target_ + ".partial-" + kept_as;
  while (true) {
    const int descriptor = ::open(partial_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0666);
    check(descriptor >= 0);
    const bool is_free = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;  // some cannot lock
    struct stat opened = {}, named = {};
    const bool is_named = ::fstat(descriptor, &opened) == 0 && ::stat(partial_.c_str(), &named) == 0 &&
                          opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
    const bool is_file = S_ISREG(opened.st_mode);
    stays_ = is_named && opened.st_size > 0;
    if (is_free && is_named && is_file) return descriptor;
    ::close(descriptor);
    TORCH_CHECK(is_file, "cannot write '", path_, "': ", partial_, " exists and is not a regular file; remove it");
    TORCH_CHECK(is_free, "cannot write '", path_, "': another process is writing ", partial_);
    // Another one has committed it between opening and locking.
  }
}

void NewFile::discard() {
  if (std::FILE* const file = std::exchange(file_, nullptr)) std::fclose(file);
  if (!partial_.empty() && !stays_) ::unlink(partial_.c_str());
  partial_.clear();
}

void NewFile::check(bool is_good) const {
  const int error = errno;
  TORCH_CHECK(is_good, "cannot write '", path_, "': ", std::generic_category().message(error));
}

std::FILE* NewFile::opened() const {
  TORCH_CHECK(file_ != nullptr, "'", path_, "' is complete; to write it anew takes another NewFile");
  return file_;
}

void NewFile::write(const void* data, std::size_t size) {
  std::FILE* const file = opened();
  // fwrite() may not be given a null pointer, which empty data can have.
  check(size == 0 || std::fwrite(data, 1, size, file) == size);
}

void NewFile::write_at(std::int64_t offset, const void* data, std::size_t size) {
  check(::fseeko(opened(), offset, SEEK_SET) == 0);
  write(data, size);
}

void NewFile::clear() {
  flush();
  check(::ftruncate(::fileno(file_), 0) == 0 && ::fseeko(file_, 0, SEEK_SET) == 0);
}

void NewFile::reserve(std::int64_t size) {
  if (size == 0) return;
  errno = ::posix_fallocate(::fileno(opened()), 0, size);
  check(errno == 0 || errno == EINVAL || errno == EOPNOTSUPP);  // some file systems cannot
}

void NewFile::write_by(const std::function<void(std::ostream&)>& function) {
  Swallowing buffer(*this);
  std::ostream stream(&buffer);
  function(stream);
  if (buffer.error() != nullptr) std::rethrow_exception(buffer.error());
}

void NewFile::flush() { check(std::fflush(opened()) == 0); }

void NewFile::sync() {
  flush();
  check(::fsync(::fileno(file_)) == 0);
  stays_ = is_to_stay_;
}

std::int64_t NewFile::size() const {
  struct stat status = {};
  check(::fstat(::fileno(opened()), &status) == 0);
  return status.st_size;
}

void NewFile::commit() {
  sync();
  check(::rename(partial_.c_str(), target_.c_str()) == 0);
  partial_.clear();
  discard();  // only now, so that nobody else can open what is kept before it has its name
  const fs::path folder = fs::path(target_).parent_path();
  sync_folder(folder.empty() ? "." : folder.string());
}

}  // namespace it3::detail
