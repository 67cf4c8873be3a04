// safetensors: round trips, every rule of the format broken once (and the message read), sharded folders.
#include "core/safetensors.h"
#include "core/tensor_source.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>

#include "core/error.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using testing::contains;
using testing::error_of;

using Names = std::vector<std::string>;

std::string length_prefix(uint64_t length) {
  std::string text(8, '\0');
  std::memcpy(text.data(), &length, 8);
  return text;
}

std::string file_text(const std::string& header, size_t data_bytes) {
  return length_prefix(header.size()) + header + std::string(data_bytes, '\1');
}

class Safetensors : public ::testing::Test {
 protected:
  // The message for a file of this content, without its path.
  std::string error_for(const std::string& text) {
    const std::string path = folder_.file("x.safetensors");
    write_file_atomic(path, text);
    const std::string message = error_of([&] { SafetensorsFile file(path); });
    EXPECT_TRUE(message == "no error" || message.starts_with(path + ": ")) << message;
    EXPECT_FALSE(contains(message, "\n")) << message;
    return message == "no error" ? message : message.substr(path.size() + 2);
  }
  std::string error_for(const std::string& header, size_t data_bytes) {
    return error_for(file_text(header, data_bytes));
  }

  void write_floats(const std::string& file, const Names& names) {
    std::vector<TensorSpec> specs;
    for (const std::string& name : names) specs.push_back({name, DType::f32, {2}});
    SafetensorsWriter writer(folder_.file(file), specs);
    for (const TensorSpec& spec : writer.order()) writer.append_floats(spec.name, std::vector<float>{1.5F, -2.0F});
    writer.commit();
  }

  testing::TempDir folder_;
};

TEST_F(Safetensors, RoundTripOfEveryWritableType) {
  const std::string path = folder_.file("a.safetensors");
  const std::vector<float> values = {0.0F, -1.5F, 3.1415927F, 1e-40F, 65504.0F, std::numeric_limits<float>::infinity()};
  const std::vector<int64_t> integers = {1, -2, int64_t{1} << 60};
  const std::vector<uint8_t> bytes = {7, 255, 0};
  {
    SafetensorsWriter writer(path, {{"bytes", DType::u8, {3}},
                                    {"narrow", DType::bf16, {3, 2}},
                                    {"floats", DType::f32, {2, 3}},
                                    {"empty", DType::f32, {0, 5}},
                                    {"wide", DType::f64, {6}},
                                    {"integers", DType::i64, {3}},
                                    {"scalar", DType::f32, {}}});
    for (const TensorSpec& spec : writer.order()) {
      if (spec.name == "integers") {
        writer.append_values(spec.name, std::span<const int64_t>(integers));
      } else if (spec.name == "bytes") {
        writer.append_values(spec.name, std::span<const uint8_t>(bytes));
      } else if (spec.name == "scalar") {
        writer.append_floats(spec.name, std::vector<float>{4.0F});
      } else if (spec.name != "empty") {  // in two pieces
        writer.append_floats(spec.name, std::span<const float>(values).first(2));
        writer.append_floats(spec.name, std::span<const float>(values).subspan(2));
      }
    }
    writer.commit();
  }
  const TensorSource source = TensorSource::open(path);
  EXPECT_EQ(source.names(), (Names{"bytes", "empty", "floats", "integers", "narrow", "scalar", "wide"}));
  EXPECT_EQ(source.read<float>("floats"), values);
  EXPECT_EQ(source.read_floats("wide"), values);
  EXPECT_EQ(source.read<int64_t>("integers"), integers);
  EXPECT_EQ(source.read<uint8_t>("bytes"), bytes);
  EXPECT_EQ(source.read_floats("scalar"), std::vector<float>{4.0F});
  EXPECT_TRUE(source.read_floats("empty").empty());
  const std::vector<float> narrow = source.read_floats("narrow");
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(narrow[i], static_cast<float>(bf16(values[i])));
  EXPECT_EQ(source.info("narrow").shape, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(source.info("narrow").type, "BF16");
  EXPECT_EQ(source.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  const SafetensorsFile file(path);
  for (const TensorInfo& info : file.infos()) {  // aligned for every reader
    const auto address = reinterpret_cast<uintptr_t>(file.bytes(info.name).data());
    EXPECT_EQ(address % static_cast<uintptr_t>(dtype_size(*info.dtype)), 0U) << info.name;
  }
}

TEST_F(Safetensors, SameTensorsGiveTheSameFile) {
  write_floats("a.safetensors", {"x", "y"});
  write_floats("b.safetensors", {"x", "y"});
  EXPECT_EQ(read_file(folder_.file("a.safetensors")), read_file(folder_.file("b.safetensors")));
  std::string header = R"({"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                       R"("y":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  EXPECT_TRUE(read_file(folder_.file("a.safetensors")).starts_with(length_prefix(header.size()) + header));
}

TEST_F(Safetensors, HalfPrecisionValuesAreExact) {
  const uint16_t bits[8] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x0001, 0x03ff, 0x7bff, 0xfc00};
  std::string text = file_text(R"({"h":{"dtype":"F16","shape":[8],"data_offsets":[0,16]}})", 0);
  text.append(reinterpret_cast<const char*>(bits), sizeof(bits));
  write_file_atomic(folder_.file("h.safetensors"), text);
  const std::vector<float> values = TensorSource::open(folder_.file("h.safetensors")).read_floats("h");
  const float tiny = std::ldexp(1.0F, -24);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(values, (std::vector<float>{0.0F, -0.0F, 1.0F, -2.0F, tiny, 1023.0F * tiny, 65504.0F, -infinity}));
  EXPECT_TRUE(std::signbit(values[1]));
}

TEST_F(Safetensors, HeaderLengthAttacks) {
  const std::string no_brace = "found a header that does not begin with '{', expected a JSON object";
  EXPECT_EQ(error_for(""), "found 0 bytes, expected a safetensors file of at least 8");
  EXPECT_EQ(error_for("1234567"), "found 7 bytes, expected a safetensors file of at least 8");
  EXPECT_EQ(error_for(length_prefix(100'000'001) + "{}"),
            "found a header of 100000001 bytes, expected at most 100000000");
  EXPECT_EQ(error_for(std::string(8, '\xff') + "{}"),
            "found a header of 18446744073709551615 bytes, expected at most 100000000");
  EXPECT_EQ(error_for(length_prefix(3) + "{}"),
            "found a header of 3 bytes, expected at most the 2 that follow in the file");
  EXPECT_EQ(error_for(length_prefix(0)), no_brace);
  EXPECT_EQ(error_for("[]", 0), no_brace);
  EXPECT_EQ(error_for(" {}", 0), no_brace);
  EXPECT_TRUE(contains(error_for("{\"a\"", 0), "parse error"));
  EXPECT_TRUE(contains(error_for("{} x", 0), "parse error"));
  EXPECT_EQ(error_for("{}      ", 0), "no error");
}

TEST_F(Safetensors, EntryAttacks) {
  const auto error = [&](const std::string& body, size_t data_bytes) {
    return error_for(R"({"t":{)" + body + "}}", data_bytes);
  };
  const std::string overflow = "key 't.shape': found a shape whose size overflows 64 bits, expected less";
  EXPECT_EQ(error(R"("dtype":"F32","shape":[2,2],"data_offsets":[0,16])", 16), "no error");
  EXPECT_TRUE(error(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])", 4)
                  .starts_with("key 't.dtype': found dtype 'F31', expected one of F64, F32"));
  EXPECT_EQ(error(R"("shape":[1],"data_offsets":[0,4])", 4), "key 't': found no key 'dtype', expected it");
  EXPECT_EQ(error(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", 4),
            "key 't.data_offsets': found 4 bytes, expected 8 for dtype F32 and 2 elements");
  EXPECT_EQ(error(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", 4),
            "key 't.shape[0]': found -1, expected a size >= 0");
  EXPECT_EQ(error(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])", 4),
            "key 't.shape[0]': found a number (1.5), expected an integer");
  EXPECT_EQ(error(R"("dtype":"F32","shape":7,"data_offsets":[0,4])", 4),
            "key 't.shape': found no array, expected the sizes of the dimensions");
  EXPECT_EQ(error(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])", 4),
            "key 't.data_offsets': found [4, 0], expected 0 <= begin <= end");
  EXPECT_EQ(error(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])", 4),
            "key 't.data_offsets': found [-4, 0], expected 0 <= begin <= end");
  EXPECT_EQ(error(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])", 4),
            "key 't.data_offsets': found no pair, expected [begin, end]");
  EXPECT_EQ(error(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0), overflow);
  EXPECT_EQ(error(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])", 0), overflow);
  EXPECT_EQ(error(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0])", 0),
            "key 't.shape[0]': found a number (18446744073709551616.0), expected an integer");
  EXPECT_EQ(error_for(R"({"t":[]})", 0), "key 't': found an array, expected an object");
  EXPECT_EQ(error_for(R"({"__metadata__":{"a":1}})", 0),
            "key '__metadata__.a': found an integer (1), expected a string");
}

TEST_F(Safetensors, CoverageAttacks) {
  const auto error = [&](int a, int b, int c, int d, size_t data_bytes) {
    return error_for(cat(R"({"a":{"dtype":"U8","shape":[)", b - a, R"(],"data_offsets":[)", a, ",", b,
                         R"(]},"b":{"dtype":"U8","shape":[)", d - c, R"(],"data_offsets":[)", c, ",", d, "]}}"),
                     data_bytes);
  };
  EXPECT_EQ(error(0, 4, 4, 8, 8), "no error");
  EXPECT_EQ(error(4, 8, 0, 4, 8), "no error");
  EXPECT_EQ(error(0, 4, 3, 8, 8), "tensor 'b': found data from byte 3, expected 4 (it overlaps another tensor)");
  EXPECT_EQ(error(0, 4, 0, 4, 8), "tensor 'b': found data from byte 0, expected 4 (it overlaps another tensor)");
  EXPECT_EQ(error(0, 4, 5, 8, 8), "tensor 'b': found data from byte 5, expected 4 (there is a hole before it)");
  EXPECT_EQ(error(1, 4, 4, 8, 8), "tensor 'a': found data from byte 1, expected 0 (there is a hole before it)");
  EXPECT_EQ(error(0, 4, 4, 8, 7), "found 7 bytes of data, expected 8 (the file is truncated)");
  EXPECT_EQ(error(0, 4, 4, 8, 9), "found 9 bytes of data, expected 8 (bytes at the end belong to no tensor)");
  EXPECT_EQ(error_for("{}", 1), "found 1 bytes of data, expected 0 (bytes at the end belong to no tensor)");
}

TEST_F(Safetensors, DuplicateKeysAreRefused) {
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_EQ(error_for(R"({"t":)" + entry + R"(,"t":)" + entry + "}", 1),
            "key 't': found the key more than once, expected once");
  EXPECT_EQ(error_for(R"({"t":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
            "key 't.dtype': found the key more than once, expected once");
}

TEST_F(Safetensors, EveryTruncationIsRefused) {
  write_floats("a.safetensors", {"x", "y"});
  const std::string text = read_file(folder_.file("a.safetensors"));
  for (size_t n = 0; n < text.size(); ++n) EXPECT_NE(error_for(text.substr(0, n)), "no error") << n;
  EXPECT_EQ(error_for(text), "no error");
}

TEST_F(Safetensors, ReadingErrorsNameFileAndTensor) {
  write_floats("a.safetensors", {"x"});
  const std::string path = folder_.file("a.safetensors");
  const TensorSource source = TensorSource::open(path);
  EXPECT_EQ(error_of([&] { source.info("z"); }), path + ": found no tensor 'z', expected it");
  EXPECT_EQ(error_of([&] { source.read<int64_t>("x"); }), path + ": tensor 'x': found dtype F32, expected i64");
  std::vector<float> three(3);
  EXPECT_EQ(error_of([&] { source.read_floats("x", three); }), path + ": tensor 'x': found 2 elements, expected 3");
  write_file_atomic(path, file_text(R"({"q":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 1));
  EXPECT_EQ(error_of([&] { TensorSource::open(path).read_floats("q"); }),
            path + ": tensor 'q': found dtype F8_E4M3, expected F32, BF16, F16 or F64");
}

TEST_F(Safetensors, WriterErrors) {
  const std::string path = folder_.file("w.safetensors");
  const std::vector<float> two = {1, 2};
  EXPECT_EQ(error_of([&] {
              SafetensorsWriter(path, {{"a", DType::f32, {1}}, {"a", DType::f32, {1}}});
            }),
            path + ": tensor 'a': found it more than once, expected once");
  EXPECT_EQ(error_of([&] {
              SafetensorsWriter(path, {{"__metadata__", DType::f32, {1}}});
            }),
            path + ": found the reserved name '__metadata__' for a tensor");
  EXPECT_EQ(error_of([&] {
              SafetensorsWriter(path, {{"a", DType::f32, {-1}}});
            }),
            path + ": tensor 'a': found a dimension of -1, expected >= 0");
  SafetensorsWriter writer(path, {{"a", DType::f32, {2}}, {"b", DType::f32, {2}}});
  EXPECT_EQ(error_of([&] { writer.append_floats("b", two); }),
            path + ": found data for tensor 'b', expected it for 'a'");
  EXPECT_EQ(error_of([&] { writer.append_floats("a", std::vector<float>(3)); }),
            path + ": tensor 'a': found 12 more bytes, expected 8");
  EXPECT_EQ(error_of([&] { writer.append_values("a", std::span<const int64_t>()); }),
            path + ": tensor 'a': found values of i64, expected f32");
  writer.append_floats("a", two);
  EXPECT_EQ(error_of([&] { writer.commit(); }), path + ": tensor 'b': found 8 bytes too few at the end");
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(Safetensors, ShardedFoldersAreRead) {
  EXPECT_EQ(error_of([&] { TensorSource::open(folder_.path()); }),
            folder_.path() +
                ": found neither model.safetensors nor model.safetensors.index.json, pytorch_model.bin, "
                "pytorch_model.bin.index.json, the folders of a model's parts or a GGUF file, expected one of "
                "them");
  write_floats("s1.safetensors", {"x", "y"});
  write_floats("s2.safetensors", {"z"});
  write_file_atomic(folder_.file("model.safetensors.index.json"),
                    R"({"weight_map":{"x":"s1.safetensors","y":"s1.safetensors","z":"s2.safetensors"}})");
  for (const std::string& path : {folder_.path(), folder_.file("model.safetensors.index.json")}) {
    const TensorSource source = TensorSource::open(path);
    EXPECT_EQ(source.names(), (Names{"x", "y", "z"}));
    EXPECT_EQ(source.file_of("z"), folder_.file("s2.safetensors"));
    EXPECT_EQ(source.read_floats("z"), (std::vector<float>{1.5F, -2.0F}));
  }
  write_floats("model.safetensors", {"only"});
  EXPECT_EQ(TensorSource::open(folder_.path()).names(), Names{"only"});
}

TEST_F(Safetensors, IndexErrorsListEveryName) {
  write_floats("s1.safetensors", {"x", "y"});
  write_floats("s2.safetensors", {"z"});
  const std::string index = folder_.file("model.safetensors.index.json");
  const auto error = [&](const std::string& map) {
    write_file_atomic(index, R"({"weight_map":)" + map + "}");
    const std::string message = error_of([&] { TensorSource::open(folder_.path()); });
    EXPECT_TRUE(message.starts_with(index + ": ")) << message;
    return message.substr(std::min(message.size(), index.size() + 2));
  };
  EXPECT_EQ(error(R"({"x":"s1.safetensors","y":"s1.safetensors","z":"s3.safetensors","w":"s4.safetensors"})"),
            "found no file for the shards " + folder_.file("s3.safetensors") + ", " + folder_.file("s4.safetensors") +
                ", expected all of them");
  EXPECT_EQ(error(R"({"x":"s1.safetensors","y":"s1.safetensors","q":"s1.safetensors","r":"s2.safetensors"})"),
            "found tensors that no shard holds, expected none: 'q' (s1.safetensors), 'r' (s2.safetensors)");
  EXPECT_EQ(error(R"({"x":"s1.safetensors","y":"s2.safetensors","z":"s2.safetensors"})"),
            "found tensors that lie in another shard, expected none: 'y' (s2.safetensors)");
  EXPECT_EQ(
      error(R"({"x":"s1.safetensors","z":"s2.safetensors"})"),
      "found tensors in the shards that are not listed, expected none: 'y' (" + folder_.file("s1.safetensors") + ")");
  EXPECT_EQ(error(R"({"x":"../s1.safetensors"})"),
            "key 'weight_map.x': found '../s1.safetensors', expected the name of a file in the same folder");
  EXPECT_EQ(error("{}"), "found no tensors in 'weight_map', expected at least one");
  const std::string shard = folder_.file("s1.safetensors");
  EXPECT_EQ(error_of([&] {
              TensorSource::from_files({shard, shard});
            }),
            shard + ": tensor 'x': found it also in another file, expected it once: " + shard);
}

}  // namespace
}  // namespace matvlm
