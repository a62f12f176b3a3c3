#include "files/new_file.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "temporary_folder.h"

namespace it3::detail {
namespace {

namespace fs = std::filesystem;

class NewFileTest : public testing::Test {
 protected:
  std::string file(const char* name = "file") const { return folder.file(name); }
  static std::string content(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()));
  }
  static std::string error_of(const std::string& path) {
    try {
      const NewFile refused(path);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  }

  const test::TemporaryFolder folder;
};

TEST_F(NewFileTest, AppearsWhenItIsComplete) {
  std::ofstream(file()) << "before";
  {
    NewFile written(file());
    written.write("abc", 3);
    written.write_at(5, "de", 2);
    written.flush();
    EXPECT_EQ(content(written.partial()), std::string("abc\0\0de", 7));
    EXPECT_EQ(content(file()), "before");
    written.commit();
    EXPECT_EQ(content(file()), std::string("abc\0\0de", 7));
  }
  EXPECT_EQ(files(), 1);
}

TEST_F(NewFileTest, WithoutCommitNothingHappens) {
  std::ofstream(file()) << "before";
  {
    NewFile written(file());
    written.write("abc", 3);
    written.sync();
  }
  EXPECT_EQ(content(file()), "before");
  EXPECT_EQ(files(), 1);
}

TEST_F(NewFileTest, GoesOnWithWhatIsKept) {
  const std::string kept = "tag";
  std::ofstream(file()) << "before";
  {
    NewFile written(file(), kept);
    EXPECT_EQ(written.partial(), file() + ".partial-tag");
    EXPECT_EQ(written.size(), 0);
    written.write("abcdef", 6);
    written.sync();
    try {
      const NewFile other(file(), kept);
      ADD_FAILURE() << "two had it at once";
    } catch (const c10::Error& error) {
      const std::string expected =
          "cannot write '" + file() + "': another process is writing " + file() + ".partial-tag";
      EXPECT_EQ(error.what_without_backtrace(), expected);
    }
  }
  EXPECT_EQ(content(file()), "before");
  {
    NewFile written(file(), kept);
    EXPECT_EQ(written.size(), 6);
    written.write_at(2, "CD", 2);
    written.commit();
  }
  EXPECT_EQ(content(file()), "abCDef");
  EXPECT_EQ(files(), 1);
  {
    NewFile written(file(), kept);
    written.write("not synced", 10);
  }
  EXPECT_EQ(files(), 1);
  std::ofstream(file() + ".partial-tag") << "of another program, and longer";
  NewFile written(file(), kept);
  written.clear();
  written.write("new", 3);
  written.commit();
  EXPECT_EQ(content(file()), "new");
  EXPECT_EQ(files(), 1);
}

TEST_F(NewFileTest, TwoAtOnceDoNotMix) {
  NewFile first(file()), second(file());
  EXPECT_NE(first.partial(), second.partial());
  first.write("first", 5);
  second.write("second", 6);
  second.commit();
  first.commit();
  EXPECT_EQ(content(file()), "first");
  EXPECT_EQ(files(), 1);
}

TEST_F(NewFileTest, FollowsLinksAndKeepsPermissions) {
  std::ofstream(file("target")) << "before";
  fs::permissions(file("target"), fs::perms(0640));
  fs::create_symlink("target", file("link"));
  NewFile written(file("link"));
  written.write("new", 3);
  written.commit();
  EXPECT_TRUE(fs::is_symlink(file("link")));
  EXPECT_EQ(content(file("target")), "new");
  EXPECT_EQ(fs::status(file("target")).permissions(), fs::perms(0640));
}

TEST_F(NewFileTest, FollowsALinkToWhereThereIsNothingYet) {
  fs::create_directory(file("folder"));
  fs::create_symlink("folder/target", file("link"));
  NewFile written(file("link"));
  written.write("new", 3);
  written.commit();
  EXPECT_TRUE(fs::is_symlink(file("link")));
  EXPECT_EQ(content(file("folder/target")), "new");
  EXPECT_THROW(written.write("more", 4), c10::Error);
}

TEST_F(NewFileTest, TakesTheLongestNames) {
  NewFile written(file((std::string(251, 'x') + ".npy").c_str()));
  EXPECT_TRUE(written.partial().ends_with(".npy"));
  written.commit();
  EXPECT_EQ(files(), 1);
}

TEST_F(NewFileTest, RefusesWhatIsNoFile) {
  fs::create_directory(file("folder"));
  ASSERT_EQ(mkfifo(file("pipe").c_str(), 0600), 0);
  EXPECT_NE(error_of(file("folder")).find("it is a folder"), std::string::npos);
  EXPECT_NE(error_of(file("pipe")).find("it is a device, a pipe or a socket"), std::string::npos);
  EXPECT_NE(error_of("").find("a file without a name"), std::string::npos);
  EXPECT_NE(error_of("/dev/null").find("it is a device, a pipe or a socket"), std::string::npos);
  const std::string missing = file("none/file");
  EXPECT_EQ(error_of(missing), "cannot write '" + missing + "': No such file or directory");
}

TEST_F(NewFileTest, AStreamReportsItsFailureAfterwards) {
  NewFile written(file());
  written.write_by([](std::ostream& stream) {
    stream << "ab" << 'c';
    stream.put('d');
    EXPECT_TRUE(stream.good());
  });
  EXPECT_THROW(written.write_by([](std::ostream&) { throw std::runtime_error("of the writer"); }), std::runtime_error);
  written.commit();
  EXPECT_EQ(content(file()), "abcd");
}

TEST_F(NewFileTest, AsManyBytesAsWereReserved) {
  NewFile written(file());
  written.reserve(1000);
  written.write("abc", 3);
  written.commit();
  EXPECT_EQ(fs::file_size(file()), 1000);
}

}  // namespace
}  // namespace it3::detail
