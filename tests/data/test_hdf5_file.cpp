// The HDF5 wrapper: what is written comes back, files appear whole or not at all, damage is one line.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <numeric>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "data/hdf5_file.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using testing::error_of;

void expect_message(const std::string& message, const std::string& path, const std::string& part) {
  testing::expect_message(message, path + ": ", part);
}

std::vector<int32_t> numbers(int64_t count) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), -5);
  return out;
}

void write_example(const std::string& path, int64_t count) {
  Hdf5File file = Hdf5File::create(path);
  const std::vector<int32_t> values = numbers(count);
  for (size_t at = 0; at < values.size(); at += 1000) {
    file.append("group/n", std::span<const int32_t>(values).subspan(at, std::min<size_t>(1000, values.size() - at)));
  }
  file.append("empty", std::span<const int64_t>());
  file.append("bytes", std::vector<uint8_t>{1, 255});
  file.write_attribute("answer", int64_t{-42});
  file.write_attribute("text", std::string("été"));
  file.write_attribute("nothing", std::string());
  file.commit();
}

// HDF5 notes the second in which an array was made, unless it is told not to.
TEST(Hdf5File, TheSameContentIsTheSameFile) {
  testing::TempDir dir;
  write_example(dir.file("a.h5"), 30000);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  write_example(dir.file("b.h5"), 30000);
  EXPECT_EQ(read_file(dir.file("a.h5")), read_file(dir.file("b.h5")));
}

TEST(Hdf5File, DeflatedArraysAreSmallerAndTheSame) {
  testing::TempDir dir;
  std::vector<uint8_t> noise(200000);
  uint32_t state = 1;
  for (uint8_t& byte : noise) byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  std::map<std::string, size_t> sizes;
  for (const char* name : {"none", "deflate"}) {
    Hdf5File file = Hdf5File::create(dir.file(name), parse_hdf5_compression(name));
    const std::vector<int64_t> zeros(500000);  // the strongest that a chunk can be deflated
    file.append("n", std::span<const int32_t>(numbers(300001)));
    file.append("zeros", std::span<const int64_t>(zeros));
    file.append("one", std::span<const int64_t>(zeros).first(1));
    file.append("noise", std::span<const uint8_t>(noise));
    file.commit();
    sizes[name] = std::filesystem::file_size(dir.file(name));
    const Hdf5File read = Hdf5File::open(dir.file(name));
    ASSERT_EQ(read.length("n"), 300001);
    ASSERT_EQ(read.length("zeros"), 500000);
    EXPECT_EQ(read.length("one"), 1);
    std::vector<int32_t> n(300001);
    read.read("n", 0, std::span<int32_t>(n));
    EXPECT_EQ(n, numbers(300001));
    std::vector<uint8_t> bytes(noise.size() - 7);
    read.read("noise", 7, std::span<uint8_t>(bytes));
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), noise.begin() + 7));
  }
  EXPECT_LT(sizes["deflate"], sizes["none"] / 8);
  EXPECT_GT(sizes["deflate"], noise.size());  // which no deflating makes smaller
  EXPECT_EQ(error_of([] { parse_hdf5_compression("lzma"); }), "compression: found 'lzma', expected none or deflate");
}

// A byte of a deflated chunk that changed on the disk is found by its checksum.
TEST(Hdf5File, DamagedDeflatedChunksAreRefused) {
  testing::TempDir dir;
  const std::string path = dir.file("x.h5");
  Hdf5File file = Hdf5File::create(path, Hdf5Compression::deflate);
  std::vector<uint8_t> text(60000);
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<uint8_t>('a' + i * i % 23);
  file.append("text", std::span<const uint8_t>(text));
  file.commit();
  std::string content = read_file(path);
  const size_t stream = content.find("\x78\x5e");  // the header of a deflated chunk at level 4
  ASSERT_NE(stream, std::string::npos);
  content[stream + 200] = static_cast<char>(content[stream + 200] ^ 4);
  write_file_atomic(path, content);
  const Hdf5File damaged = Hdf5File::open(path);
  expect_message(error_of([&] { damaged.read("text", 0, std::span<uint8_t>(text)); }), path,
                 "cannot read the array 'text'");
}

// An array that claims more elements than the file has bytes: they would be filled up in memory.
TEST(Hdf5File, ArraysOfNothingAreRefused) {
  testing::TempDir dir;
  const std::string path = dir.file("x.h5");
  write_example(path, 700);
  std::string content = read_file(path);
  const std::string extent = std::string("\xbc\x02\0\0\0\0\0\0", 8) + std::string(8, '\xff');  // 700 of any number
  const size_t at = content.find(extent);
  ASSERT_NE(at, std::string::npos);
  content[at + 4] = 1;  // + 2^32
  write_file_atomic(path, content);
  const Hdf5File file = Hdf5File::open(path);
  expect_message(error_of([&] { file.length("group/n"); }), path, "array 'group/n': found 4294967996 elements in ");
}

TEST(Hdf5File, ArraysAndAttributesComeBack) {
  testing::TempDir dir;
  const std::string path = dir.file("x.h5");
  write_example(path, 700000);  // more than the buffer of 1 MiB
  const Hdf5File file = Hdf5File::open(path);
  EXPECT_EQ(file.length("group/n"), 700000);
  std::vector<int32_t> all(700000);
  file.read("group/n", 0, std::span<int32_t>(all));
  EXPECT_EQ(all, numbers(700000));
  std::vector<int32_t> part(3);
  file.read("group/n", 262143, std::span<int32_t>(part));
  EXPECT_EQ(part, (std::vector<int32_t>{262138, 262139, 262140}));
  EXPECT_EQ(file.length("empty"), 0);
  std::vector<uint8_t> bytes(2);
  file.read("bytes", 0, std::span<uint8_t>(bytes));
  EXPECT_EQ(bytes[1], 255);
  EXPECT_EQ(file.int_attribute("answer"), -42);
  EXPECT_EQ(file.string_attribute("text"), "été");
  EXPECT_EQ(file.string_attribute("nothing"), "");
}

TEST(Hdf5File, ThreadsAndSeveralReaders) {
  testing::TempDir dir;
  write_example(dir.file("x.h5"), 100000);
  const Hdf5File first = Hdf5File::open(dir.file("x.h5"));
  const Hdf5File second = Hdf5File::open(dir.file("x.h5"));
  std::vector<std::thread> threads;
  std::vector<int64_t> wrong(4);
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<int32_t> one(1);
      for (int64_t i = 0; i < 2000; ++i) {
        const int64_t at = (i * 7919 + static_cast<int64_t>(t)) % 100000;
        (t % 2 == 0 ? first : second).read("group/n", at, std::span<int32_t>(one));
        wrong[t] += one[0] == at - 5 ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int64_t>(4, 0));
}

TEST(Hdf5File, NothingIsLeftWithoutCommit) {
  testing::TempDir dir;
  const std::string path = dir.file("x.h5");
  write_file_atomic(path, "old");
  {
    Hdf5File file = Hdf5File::create(path);
    file.append("n", std::vector<int32_t>{1});
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(Hdf5File, WrongNamesTypesAndRanges) {
  testing::TempDir dir;
  const std::string path = dir.file("x.h5");
  write_example(path, 10);
  const Hdf5File file = Hdf5File::open(path);
  std::vector<int32_t> ints(4);
  std::vector<int64_t> longs(4);
  expect_message(error_of([&] { file.length("none"); }), path, "cannot open the array 'none'");
  expect_message(error_of([&] { file.read("group/n", 7, std::span<int32_t>(ints)); }), path, "expected 7 + 4");
  expect_message(error_of([&] { file.read("group/n", -1, std::span<int32_t>(ints)); }), path, "expected -1 + 4");
  expect_message(error_of([&] { file.read("group/n", 0, std::span<int64_t>(longs)); }), path, "expected int64");
  expect_message(error_of([&] { file.int_attribute("none"); }), path, "no attribute 'none'");
  expect_message(error_of([&] { file.int_attribute("text"); }), path, "expected one integer");
  expect_message(error_of([&] { file.string_attribute("answer"); }), path, "expected one string");
}

TEST(Hdf5File, EmptyTruncatedDamagedAndMissingFiles) {
  testing::TempDir dir;
  const std::string path = dir.file("x.h5");
  expect_message(error_of([&] { Hdf5File::open(path); }), path, "cannot open");
  expect_message(error_of([&] { Hdf5File::open(dir.path()); }), dir.path(), "found a folder");
  expect_message(error_of([&] { Hdf5File::create(dir.file("no/x.h5")); }), dir.file("no/x.h5"), "cannot make");
  write_example(path, 100000);
  const std::string whole = read_file(path);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    write_file_atomic(path, whole.substr(0, size));
    expect_message(error_of([&] { Hdf5File::open(path); }), path, size == 0 ? "empty file" : "no whole HDF5 file");
  }
  std::string damaged = whole;
  damaged[whole.size() / 2] = static_cast<char>(~damaged[whole.size() / 2]);
  write_file_atomic(path, damaged);
  const Hdf5File file = Hdf5File::open(path);
  std::vector<int32_t> values(100000);
  expect_message(error_of([&] { file.read("group/n", 0, std::span<int32_t>(values)); }), path, "cannot read");
}

// In a child process: writes against a limit on file sizes, as a full disk would answer.
int write_with_little_space(const std::string& path) {
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {200000, 200000};
  setrlimit(RLIMIT_FSIZE, &limit);
  const std::string message = error_of([&] { write_example(path, 700000); });
  return message.find(path + ": cannot write") == 0 ? 0 : 1;
}

TEST(Hdf5FileDeathTest, FullDiskIsAnErrorAndKeepsTheOldFile) {
  testing::TempDir dir;
  const std::string path = dir.file("x.h5");
  write_file_atomic(path, "old");
  EXPECT_EXIT(std::exit(write_with_little_space(path)), ::testing::ExitedWithCode(0), "");
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

}  // namespace
}  // namespace matvlm
