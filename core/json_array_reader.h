// A JSON file whose top level is an array, element by element: a file of any size in the memory of its largest element.
#pragma once

#include <cstdint>
#include <string>

namespace matvlm {

class JsonArrayReader {
 public:
  // Error when the file cannot be read or does not begin with an array.
  explicit JsonArrayReader(const std::string& path);
  ~JsonArrayReader();
  JsonArrayReader(const JsonArrayReader&) = delete;
  JsonArrayReader& operator=(const JsonArrayReader&) = delete;

  // The text of the next element (for Json::parse, which says whether it is JSON); false after the last one. Error for
  // brackets that do not match, commas in wrong places, text after the array, a file that ends too early, an element
  // of more than 64 MiB.
  bool next(std::string& text);

  int64_t index() const { return index_; }        // of the element that next() returned last; -1 before the first
  int64_t position() const { return position_; }  // bytes of the file up to the end of that element
  int64_t size() const { return size_; }          // of the file
  // Goes on after element `index`, which ended at `position` when an earlier reader of the same file read it.
  void resume(int64_t index, int64_t position);

 private:
  int peek();  // the next byte, or -1 at the end
  void skip_space();
  void read_element(std::string& text);
  void expect_end();
  template <class... Args>
  [[noreturn]] void malformed(const Args&... what) const;

  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
  int64_t position_ = 0;
  int64_t index_ = -1;
  bool ended_ = false;
  std::string buffer_;
  size_t at_ = 0;  // in the buffer, of the byte at position_
};

}  // namespace matvlm
