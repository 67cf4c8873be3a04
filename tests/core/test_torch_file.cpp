// PyTorch checkpoints: archives and pickles with one fault each, and the message for it. What whole ones hold is
// compared with PyTorch's own values in tests/golden/test_checkpoints.cpp.
#include "core/torch_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"
#include "core/tensor_source.h"
#include "tests/support/temp_dir.h"
#include "tests/support/zip_writer.h"

namespace matvlm::testing {
namespace {

std::string text_op(const std::string& text) {
  std::string out = "X";
  put_number(out, text.size(), 4);
  return out + text;
}
std::string int_op(int32_t value) {
  std::string out = "J";
  put_number(out, static_cast<uint32_t>(value), 4);
  return out;
}
std::string global_op(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
std::string storage_op(const std::string& type, const std::string& key, int32_t size) {
  return "(" + text_op("storage") + global_op("torch", type) + text_op(key) + text_op("cpu") + int_op(size) + "tQ";
}
std::string integers_op(const std::vector<int32_t>& values) {
  std::string out = "(";
  for (const int32_t value : values) out += int_op(value);
  return out + "t";
}
std::string tensor_op(const std::string& storage, int32_t offset, const std::vector<int32_t>& shape,
                      const std::vector<int32_t>& strides) {
  return global_op("torch._utils", "_rebuild_tensor_v2") + "(" + storage + int_op(offset) + integers_op(shape) +
         integers_op(strides) + "\x89" + global_op("collections", "OrderedDict") + ")RtR";
}
// {"w": value}
std::string dict_of(const std::string& value) { return "\x80\2}" + text_op("w") + value + "s."; }

class TorchFiles : public ::testing::Test {
 protected:
  std::string archive(const std::string& pickle, const std::string& storage = std::string(24, '\0')) {
    return zip_text({{"m/data.pkl", pickle}, {"m/byteorder", "little"}, {"m/data/0", storage}});
  }
  // The message for a file of this content, without its path.
  std::string error_for(const std::string& content) {
    const std::string path = folder_.file("x.bin");
    write_file_atomic(path, content);
    try {
      const TorchFile file(path);
      for (const std::string& name : file.names()) {
        std::vector<float> values(static_cast<size_t>(file.info(name).numel));
        file.read_floats(name, values);
      }
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_TRUE(message.starts_with(path + ": ")) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      return message.substr(path.size() + 2);
    }
    return "no error";
  }
  std::string error_for_pickle(const std::string& pickle) { return error_for(archive(pickle)); }
  std::string error_for_value(const std::string& value) { return error_for_pickle(dict_of(value)); }

  TempDir folder_;
};

const std::string kStorage = storage_op("FloatStorage", "0", 6);

TEST_F(TorchFiles, TheHelpersMakeWholeFiles) {
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 0, {2, 3}, {3, 1})), "no error");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 0, {3, 2}, {1, 3})), "no error");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 5, {}, {})), "no error");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 6, {0}, {1})), "no error");
}

TEST_F(TorchFiles, StridedViewsAreReadInRowOrder) {
  std::string storage;
  for (const float x : {0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.0F}) {
    uint32_t bits = 0;
    std::memcpy(&bits, &x, 4);
    put_number(storage, bits, 4);
  }
  write_file_atomic(folder_.file("a.bin"), archive(dict_of(tensor_op(kStorage, 1, {2, 2}, {1, 3})), storage));
  const TensorSource source = TensorSource::open(folder_.file("a.bin"));
  EXPECT_EQ(source.read_floats("w"), (std::vector<float>{1, 4, 2, 5}));
  EXPECT_THROW(source.bytes("w"), Error);
}

TEST_F(TorchFiles, ArchivesOfMoreThanFourGigabytes) {
  const std::string pickle = dict_of(tensor_op(kStorage, 0, {2, 3}, {3, 1}));
  const std::string content = zip_text({{"m/data.pkl", pickle}, {"m/data/0", std::string(24, '\0')}}, true);
  EXPECT_EQ(error_for(content), "no error");
  std::string damaged = content;
  damaged[content.find("PK\6\6")] = 'X';
  EXPECT_NE(error_for(damaged).find("found no ZIP64 end record at byte"), std::string::npos);
}

TEST_F(TorchFiles, PicklesThatDoMoreAreRefusedByName) {
  EXPECT_EQ(error_for_value(global_op("os", "system") + text_op("true") + "\x85R"),
            "m/data.pkl: byte 9 of the pickle: found the global 'os.system', expected only what rebuilds tensors");
  EXPECT_EQ(error_for_value(text_op("os") + text_op("system") + "\x93"),
            "m/data.pkl: byte 27 of the pickle: found the global 'os.system', expected only what rebuilds tensors");
  EXPECT_EQ(error_for_value("(ios\nsystem\n"),
            "m/data.pkl: byte 10 of the pickle: found the opcode INST (105), expected only what rebuilds tensors");
  EXPECT_EQ(error_for_value(")\x81"),
            "m/data.pkl: byte 10 of the pickle: found the opcode NEWOBJ (129), expected only what rebuilds tensors");
  EXPECT_EQ(error_for_value("\xff"),
            "m/data.pkl: byte 9 of the pickle: found the opcode unknown (255), expected only what rebuilds tensors");
  EXPECT_EQ(error_for_value(global_op("torch", "FloatStorage") + ")R"),
            "m/data.pkl: byte 30 of the pickle: found a call of 'torch FloatStorage', expected only what rebuilds "
            "tensors");
  EXPECT_EQ(error_for_value(kStorage + "}b"),
            "m/data.pkl: byte 64 of the pickle: found a storage, expected a dict to give a state to");
}

TEST_F(TorchFiles, MalformedPickles) {
  const auto has = [&](const std::string& pickle, const std::string& part) {
    EXPECT_NE(error_for_pickle(pickle).find(part), std::string::npos) << error_for_pickle(pickle);
  };
  has("", "found the end, expected more");
  has("\x80\2}", "found the end, expected more");
  has("\x80\7}.", "found pickle protocol 7, expected 2 to 5");
  has("\x80\2.", "found an empty stack, expected a value");
  has("\x80\2(.", "found an empty stack, expected a value");
  has("\x80\2t.", "found no mark on the stack, expected one");
  has("\x80\2Nq\1h\2.", "found no value in slot 2 of the memo, expected one");
  has("\x80\2X\xff\xff\xff\xff.", "found a text of 4294967295 bytes, expected at most 1");
  has("\x80\2\x8a\x09", "found an integer of 9 bytes, expected at most 8");
  has("\x80\2}(Nu.", "found a key without a value");
  has("\x80\2N.", "found None, expected a dict of tensors");
  has("\x80\2}K\1Ns.", "found an integer as a key, expected a tensor's name");
  has(dict_of("K\1"), "found entries that are no tensors, expected a state dict; 'w' is an integer");
  const std::string tensor = tensor_op(kStorage, 0, {6}, {1});
  has("\x80\2}(" + text_op("w") + tensor + text_op("w") + tensor + "u.", "found it more than once, expected once");
  // A dict that holds itself.
  has("\x80\2}q\1" + text_op("w") + "h\1s.", "'w' is a dict");
}

TEST_F(TorchFiles, TensorsMustLieInTheirStorage) {
  const std::string what = "tensor 'w': ";
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 0, {7}, {1})),
            what + "found elements up to number 6 of a storage, expected fewer than its 6");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 6, {1}, {1})),
            what + "found elements up to number 6 of a storage, expected fewer than its 6");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, -1, {1}, {1})), what + "found the offset -1, expected at least 0");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 0, {2}, {-1})),
            what + "found the size 2 with stride -1, expected both to be at least 0");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 0, {7, 1}, {0, 1})),
            what + "found 7 elements in a storage of 6 (an expanded view), expected each element once");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 0, {2147483647, 2147483647, 2147483647}, {1, 1, 1})),
            what + "found a shape whose size overflows 64 bits, expected less");
  // No element, whatever the other sizes.
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 0, {0, 2147483647, 2147483647, 2147483647}, {1, 1, 1, 1})), "no error");
  EXPECT_EQ(error_for_value(tensor_op(kStorage, 0, {2}, {})), what + "found 1 sizes and 0 strides, expected as many");
  EXPECT_EQ(error_for_value(tensor_op(storage_op("FloatStorage", "1", 6), 0, {2}, {1})),
            what + "found no file 'm/data/1' in the archive, expected it");
  EXPECT_EQ(error_for_value(tensor_op(storage_op("LongStorage", "0", 3), 0, {2}, {1})),
            what + "found dtype I64, expected F32, BF16, F16 or F64");
  EXPECT_NE(error_for_value(tensor_op(storage_op("QInt8Storage", "0", 3), 0, {2}, {1})).find("'torch.QInt8Storage'"),
            std::string::npos);
}

TEST_F(TorchFiles, DamagedArchives) {
  const std::string good = archive(dict_of(tensor_op(kStorage, 0, {6}, {1})));
  EXPECT_EQ(error_for(good), "no error");
  EXPECT_EQ(error_for(good.substr(0, good.size() - 1)),
            "found no end of a zip archive, expected one (the file may be truncated)");
  EXPECT_EQ(error_for("PK\3\4"), "found 4 bytes, expected a zip archive of at least 22");
  EXPECT_EQ(error_for(zip_text({{"m/data/0", "x"}})),
            "found 0 files data.pkl in the archive, expected one, as torch.save writes it");
  EXPECT_EQ(error_for(zip_text({{"m/data.pkl", "x"}, {"m/data.pkl", "x"}})),
            "found the entry 'm/data.pkl' more than once, expected once");
  EXPECT_EQ(error_for(zip_text({{"m/data.pkl", "x"}, {"m/byteorder", "big"}})),
            "found the byte order 'big', expected 'little'");
  EXPECT_EQ(error_for(zip_text({{"m/data.pkl", "x", 12}})),
            "entry 'm/data.pkl': found compression method 12, expected 0 (stored) or 8 (deflated)");
  EXPECT_EQ(error_for(zip_text({{"m/data.pkl", "x", 0, 1}})),
            "entry 'm/data.pkl': found it encrypted, expected plain data");
  EXPECT_EQ(error_for(zip_text({{"m/data.pkl", "x", 0, 0, 2}})),
            "entry 'm/data.pkl': found 2 bytes of content in 1 bytes of stored data");
  EXPECT_EQ(error_for(zip_text({{"m/data.pkl", "x", 8, 0, 5000}})),
            "entry 'm/data.pkl': found 5000 bytes of content in 1 bytes of deflated data");
  EXPECT_EQ(error_for(zip_text({{"m/data.pkl", "x", 0, 0, -1, 5, true}})),
            "entry 'm/data.pkl': found the CRC-32 2363233923, expected 5 (the file is damaged)");
  EXPECT_EQ(error_for(zip_text({{"m/data.pkl", "\xff\xff", 8, 0, 100}})),
            "entry 'm/data.pkl': found damaged deflate data, or data of 0 bytes, expected 100");
  std::string overlapping = good;
  // The second entry's header offset, 42 bytes into its record, is moved onto the first's.
  const size_t second = overlapping.find("PK\1\2", overlapping.find("PK\1\2") + 1);
  std::string zero;
  put_number(zero, 0, 4);
  overlapping.replace(second + 42, 4, zero);
  EXPECT_EQ(error_for(overlapping), "entry 'm/byteorder': found another name in its own header");
}

// Names may hold anything; messages with them stay on one line and draw nothing on a terminal.
TEST_F(TorchFiles, ControlCharactersInNamesAreShown) {
  EXPECT_EQ(error_for(zip_text({{"m\n\x1b[2J/data.pkl", "x", 12}})),
            "entry 'm\\n\\x1b[2J/data.pkl': found compression method 12, expected 0 (stored) or 8 (deflated)");
}

TEST_F(TorchFiles, OldFormatIsNamed) {
  write_file_atomic(folder_.file("old.bin"), "\x80\2\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.");
  try {
    TensorSource::open(folder_.file("old.bin"));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("found a bare pickle (PyTorch before 1.6)"), std::string::npos);
  }
}

// The length of a safetensors header is the file's beginning and may spell another format's.
TEST_F(TorchFiles, SafetensorsOfAnyHeaderLengthAreKnown) {
  for (const size_t length : {0x0280U, 0x4b50U}) {
    std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
    header.resize(length, ' ');
    std::string content;
    put_number(content, length, 8);
    write_file_atomic(folder_.file("a.safetensors"), content + header + "x");
    EXPECT_TRUE(TensorSource::open(folder_.file("a.safetensors")).has("a")) << length;
  }
}

}  // namespace
}  // namespace matvlm::testing
