#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <ostream>
#include <string>

#include <it3/backend/export.h>

namespace it3::detail {

/// A file that appears under its name when it is complete. It is written beside its place; commit() checks that all was
/// written, has the disk keep it (fsync), and renames it. Whenever the process ends, what is under the name is the file
/// of before or the new one. Destroyed without commit(), as by an exception, it leaves nothing, unless it was to be
/// kept.
///
/// All members raise c10::Error, which names the file and the system's reason, if it cannot be written.
class IT3_API NewFile {
 public:
  /// Through a symbolic link, to what it points to. Owner and permissions are those of what is there. Raises also if
  /// what is there is not a regular file, or is protected against writing, and if another NewFile has what is kept.
  ///
  /// @param kept_as  if it is not empty, a file that is not committed stays, from the first sync() on, as
  ///                 NAME.partial-KEPT_AS; a later NewFile of that name, of this process or another, goes on with it
  explicit NewFile(const std::string& path, const std::string& kept_as = "");
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() { discard(); }

  /// As it was given.
  const std::string& path() const { return path_; }

  /// Where it is until commit(): .partial-... in the same folder, with the same suffix, or NAME.partial-KEPT_AS.
  const std::string& partial() const { return partial_; }

  /// Continues at the end of what was written last.
  void write(const void* data, std::size_t size);
  /// From a byte on, counted from the file's begin; what is skipped is zeros.
  void write_at(std::int64_t offset, const void* data, std::size_t size);

  /// Removes what was written, and what was kept.
  void clear();

  /// Has the disk set this many bytes aside, so that a full disk shows before work begins.
  void reserve(std::int64_t size);

  /// Has a function write to a stream, which never reports a failure, as torch's writers end the process then. It is
  /// raised afterwards.
  void write_by(const std::function<void(std::ostream&)>& function);

  /// Hands what was written to the system, so that others can read partial().
  void flush();

  /// Has the disk keep what was written so far.
  void sync();

  /// In bytes, as far as it was handed to the system.
  std::int64_t size() const;

  void commit();

  /// Closes it and removes it, unless it was committed or is to be kept.
  void discard();

 private:
  /// What was created, or is there and is kept. Raises if it cannot be.
  int create();
  int open_kept(const std::string& kept_as);
  /// Raises if it was committed.
  std::FILE* opened() const;
  /// Raises errno's error.
  void check(bool is_good) const;
  std::string path_;     // as given, for errors
  std::string target_;   // with links followed
  std::string partial_;  // empty when it is gone
  bool is_to_stay_;
  bool stays_ = false;  // without commit()
  std::FILE* file_ = nullptr;
};

}  // namespace it3::detail
