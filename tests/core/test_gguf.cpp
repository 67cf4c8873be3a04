// GGUF files with one fault each, and the message for it. Whole ones are compared with the reference reader's values in
// tests/golden/test_checkpoints.cpp.
#include "core/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "core/error.h"
#include "core/gguf_model.h"
#include "core/tensor_source.h"
#include "tests/support/temp_dir.h"
#include "tests/support/zip_writer.h"

namespace matvlm::testing {
namespace {

std::string number(uint64_t value, int width) {
  std::string out;
  put_number(out, value, width);
  return out;
}
std::string text(const std::string& value) { return number(value.size(), 8) + value; }
std::string text_value(const std::string& key, const std::string& value) {
  return text(key) + number(8, 4) + text(value);
}
std::string int_value(const std::string& key, uint32_t value) { return text(key) + number(4, 4) + number(value, 4); }
std::string float_value(const std::string& key, float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  return text(key) + number(6, 4) + number(bits, 4);
}
std::string tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
  std::string out = text(name) + number(dims.size(), 4);
  for (const uint64_t dim : dims) out += number(dim, 8);
  return out + number(type, 4) + number(offset, 8);
}

struct Parts {
  uint32_t version = 3;
  std::vector<std::string> values = {};
  std::vector<std::string> tensors = {};
  uint64_t data_bytes = 64;
  std::string data = {};
};
std::string file_of(const Parts& parts) {
  std::string out =
      "GGUF" + number(parts.version, 4) + number(parts.tensors.size(), 8) + number(parts.values.size(), 8);
  for (const std::string& value : parts.values) out += value;
  for (const std::string& entry : parts.tensors) out += entry;
  out.resize((out.size() + 31) / 32 * 32, '\0');
  return out + (parts.data.empty() ? std::string(parts.data_bytes, '\1') : parts.data);
}

class Gguf : public ::testing::Test {
 protected:
  std::string error_of(const std::function<void(const std::string&)>& use, const std::string& content) {
    const std::string path = folder_.file("x.gguf");
    write_file_atomic(path, content);
    try {
      use(path);
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_TRUE(message.starts_with(path + ": ")) << message;
      return message.substr(path.size() + 2);
    }
    return "no error";
  }
  std::string error_for(const std::string& content) {
    return error_of([](const std::string& path) { GgufFile file(path); }, content);
  }
  TempDir folder_;
};

TEST_F(Gguf, WholeFile) {
  Parts parts;
  parts.values = {int_value("a", 7), text_value("b", "x"), float_value("c", 0.5F)};
  parts.tensors = {tensor("t", {4, 2}, 0, 0), tensor("q", {32}, 8, 32)};
  parts.data_bytes = 66;
  write_file_atomic(folder_.file("a.gguf"), file_of(parts));
  const GgufFile file(folder_.file("a.gguf"));
  EXPECT_EQ(file.integer("a"), 7);
  EXPECT_EQ(file.text("b"), "x");
  EXPECT_EQ(file.number("c"), 0.5);
  EXPECT_EQ(file.info("t").shape, (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(file.info("q").type, "Q8_0");
  EXPECT_EQ(file.metadata().at("a"), "7");
  EXPECT_EQ(error_of([](const std::string& path) { GgufFile(path).integer("b"); }, file_of(parts)),
            "key 'b': found another type, expected an integer");
  EXPECT_EQ(error_of([](const std::string& path) { GgufFile(path).text("z"); }, file_of(parts)),
            "key 'z': found nothing, expected a text");
}

TEST_F(Gguf, Headers) {
  EXPECT_EQ(error_for("GGUF"), "found no GGUF header, expected 'GGUF' and three numbers");
  EXPECT_EQ(error_for(file_of({1})), "found GGUF version 1, expected 2 or 3");
  EXPECT_EQ(error_for(file_of({2})), "no error");
  EXPECT_EQ(error_for(file_of({0x03000000})), "found a big-endian GGUF file, expected a little-endian one");
  const std::string head = "GGUF" + number(3, 4);
  EXPECT_EQ(error_for(head + number(~uint64_t{0}, 8) + number(0, 8)),
            "byte 16: found 18446744073709551615 tensors, expected at most the 0 that fit in the file");
  EXPECT_EQ(error_for(head + number(0, 8) + number(uint64_t{1} << 60, 8)),
            "byte 24: found 1152921504606846976 keys, expected at most the 0 that fit in the file");
}

TEST_F(Gguf, Metadata) {
  Parts parts;
  const auto error_with = [&](const std::string& value) {
    parts.values = {value};
    return error_for(file_of(parts));
  };
  EXPECT_EQ(error_with(text("k") + number(13, 4) + number(0, 8)), "key 'k': found the type 13, expected 0 to 12");
  EXPECT_EQ(error_with(text("k") + number(7, 4) + "\2"), "key 'k': found the boolean 2, expected 0 or 1");
  EXPECT_EQ(error_with(text("k") + number(10, 4) + number(~uint64_t{0}, 8)),
            "key 'k': found 18446744073709551615, expected at most 9223372036854775807");
  EXPECT_EQ(error_with(text("k") + number(9, 4) + number(9, 4) + number(1, 8)),
            "key 'k': found an array of type 9, expected one of numbers or texts");
  const std::string many = error_with(text("k") + number(9, 4) + number(8, 4) + number(uint64_t{1} << 61, 8));
  EXPECT_NE(many.find("found 2305843009213693952 elements of an array, expected at most the"), std::string::npos);
  const std::string longer = error_with(number(uint64_t{1} << 62, 8) + "k");
  EXPECT_NE(longer.find("found a text of 4611686018427387904 bytes, expected at most the"), std::string::npos);
  parts.values = {int_value("k", 1), int_value("k", 1)};
  EXPECT_EQ(error_for(file_of(parts)), "key 'k': found it more than once, expected once");
  EXPECT_EQ(error_with(int_value("general.alignment", 24)),
            "key 'general.alignment': found 24, expected a power of two up to 1048576");
}

TEST_F(Gguf, Tensors) {
  Parts parts;
  const auto error_with = [&](const std::vector<std::string>& tensors) {
    parts.tensors = tensors;
    return error_for(file_of(parts));
  };
  EXPECT_EQ(error_with({tensor("t", {}, 0, 0)}), "tensor 't': found 0 dimensions, expected 1 to 4");
  EXPECT_EQ(error_with({tensor("t", {1, 1, 1, 1, 1}, 0, 0)}), "tensor 't': found 5 dimensions, expected 1 to 4");
  EXPECT_EQ(error_with({tensor("t", {4}, 10, 0)}),
            "tensor 't': found the type number 10, expected F32, F16, BF16, F64, I8 to I64, Q4_0, Q4_1, Q5_0, Q5_1, "
            "Q8_0, Q4_K or Q6_K");
  EXPECT_EQ(error_with({tensor("t", {31}, 2, 0)}),
            "tensor 't': found rows of 31 values of type Q4_0, expected a multiple of 32");
  EXPECT_EQ(error_with({tensor("t", {uint64_t{1} << 33, uint64_t{1} << 33}, 0, 0)}),
            "tensor 't': found a shape whose size overflows 64 bits, expected less");
  EXPECT_EQ(error_with({tensor("t", {uint64_t{1} << 63}, 0, 0)}),
            "tensor 't': found a dimension of 9223372036854775808, expected at most 9223372036854775807");
  EXPECT_EQ(error_with({tensor("t", {uint64_t{1} << 40}, 0, 0)}),
            "tensor 't': found 4398046511104 bytes of data, expected at most the file's 128");
  EXPECT_EQ(error_with({tensor("t", {4}, 0, uint64_t{1} << 40)}),
            "tensor 't': found data from byte 1099511627776 on, expected it in the file of 128");
  EXPECT_EQ(error_with({tensor("t", {4}, 0, 8)}), "tensor 't': found data from byte 8, expected a multiple of 32");
  EXPECT_EQ(error_with({tensor("t", {17}, 0, 0)}),
            "tensor 't': found data up to byte 132, expected it within the file's 128 (the file may be truncated)");
  EXPECT_EQ(error_with({tensor("t", {9}, 0, 0), tensor("u", {1}, 0, 32)}),
            "tensor 'u': found data from byte 32, expected it from 36 on (it overlaps another tensor)");
  EXPECT_EQ(error_with({tensor("t", {1}, 0, 0), tensor("t", {1}, 0, 32)}),
            "tensor 't': found it more than once, expected once");
}

TEST_F(Gguf, ModelsOfOtherArchitecturesAndTokenizers) {
  Parts parts;
  parts.values = {text_value("general.architecture", "rwkv"), text_value("tokenizer.ggml.model", "llama")};
  EXPECT_EQ(error_of([](const std::string& path) { gguf_config(GgufFile(path)); }, file_of(parts)),
            "key 'general.architecture': found 'rwkv', expected 'llama' or 'qwen2'");
  EXPECT_EQ(error_of([](const std::string& path) { gguf_tokenizer_json(GgufFile(path)); }, file_of(parts)),
            "key 'tokenizer.ggml.model': found 'llama', expected 'gpt2' (byte-level BPE)");
  parts.tensors = {tensor("blk.0.ssm_a.weight", {4}, 0, 0)};
  EXPECT_EQ(error_of([](const std::string& path) { TensorSource::open(path); }, file_of(parts)), "no error");
  parts.values = {text_value("general.architecture", "llama")};
  EXPECT_EQ(error_of([](const std::string& path) { TensorSource::open(path); }, file_of(parts)),
            "found tensors that a model of the architecture llama does not have; 'blk.0.ssm_a.weight'");
  parts.values.push_back(int_value("llama.attention.head_count", 3));
  parts.tensors = {tensor("blk.0.attn_q.weight", {4, 4}, 0, 0)};
  EXPECT_EQ(error_of([](const std::string& path) { TensorSource::open(path); }, file_of(parts)),
            "tensor 'blk.0.attn_q.weight': found 4 rows for 3 heads, expected an even number for each");
}

// Llama 3.2's scaling as GGUF holds it: a divisor for each pair of dimensions (head width 16, theta 500000).
TEST_F(Gguf, RotaryFactorsOfLlama3) {
  Parts parts;
  parts.values = {text_value("general.architecture", "llama"),
                  int_value("llama.embedding_length", 4),
                  int_value("llama.attention.head_count", 1),
                  int_value("llama.feed_forward_length", 4),
                  int_value("llama.block_count", 1),
                  float_value("llama.rope.freq_base", 500000.0F),
                  float_value("llama.attention.layer_norm_rms_epsilon", 1e-5F)};
  parts.tensors = {tensor("rope_freqs.weight", {8}, 0, 0), tensor("token_embd.weight", {4, 2}, 0, 32)};
  const auto data_with = [](float third) {
    // theta^(-j/8): 1, 0.194, 0.0376, 0.0073, 0.0014, 0.00027, 5.3e-5, 1.0e-5; 8192 positions make 1304 ... 0.0135
    // turns
    const double turns = 8192.0 / (2.0 * 3.14159265358979323846) * std::pow(500000.0, -4.0 / 8.0);  // of pair 4: 1.844
    const double smooth = (turns - 1.0) / 3.0;
    const float middle = static_cast<float>(1.0 / ((1.0 - smooth) / 32.0 + smooth));
    std::string out;
    for (const float x : {1.0F, 1.0F, 1.0F, third, middle, 32.0F, 32.0F, 32.0F}) {
      uint32_t bits = 0;
      std::memcpy(&bits, &x, 4);
      out += number(bits, 4);
    }
    return out + std::string(32, '\0');
  };
  parts.data = data_with(1.0F);
  write_file_atomic(folder_.file("l.gguf"), file_of(parts));
  EXPECT_EQ(gguf_config(GgufFile(folder_.file("l.gguf"))).at("rope_scaling").dump(),
            R"({"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
            R"("original_max_position_embeddings":8192})");
  EXPECT_FALSE(TensorSource::open(folder_.file("l.gguf")).has("rope_freqs.weight"));
  parts.data = data_with(2.0F);
  EXPECT_NE(error_of([](const std::string& path) { gguf_config(GgufFile(path)); }, file_of(parts))
                .find("tensor 'rope_freqs.weight': found the factor 2 at 3, expected 1"),
            std::string::npos);
}

}  // namespace
}  // namespace matvlm::testing
