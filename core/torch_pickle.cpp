// The restricted pickle machine: a stack and a memo of nodes in one arena.
#include "core/torch_pickle.h"

#include <array>
#include <bit>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"

namespace matvlm {
namespace {

enum class Kind { none, boolean, integer, number, text, tuple, list, dict, global, storage, tensor };

constexpr const char* kind_name(Kind kind) {
  constexpr std::array<const char*, 11> kNames = {"None",     "a boolean", "an integer", "a number",
                                                  "a text",   "a tuple",   "a list",     "a dict",
                                                  "a global", "a storage", "a tensor"};
  return kNames[static_cast<size_t>(kind)];
}

struct Node {
  Kind kind = Kind::none;
  int64_t integer = 0;
  std::string text;                            // text; "module name" of a global; key of a storage
  std::vector<Node*> items;                    // tuple, list
  std::vector<std::pair<Node*, Node*>> pairs;  // dict
  DType dtype = DType::f32;                    // storage
  std::unique_ptr<TorchTensor> tensor;
};

struct StorageType {
  const char* name;
  DType dtype;
};
constexpr StorageType kStorageTypes[] = {{"torch FloatStorage", DType::f32}, {"torch BFloat16Storage", DType::bf16},
                                         {"torch HalfStorage", DType::f16},  {"torch DoubleStorage", DType::f64},
                                         {"torch LongStorage", DType::i64},  {"torch IntStorage", DType::i32},
                                         {"torch ShortStorage", DType::i16}, {"torch CharStorage", DType::i8},
                                         {"torch ByteStorage", DType::u8},   {"torch BoolStorage", DType::boolean}};

constexpr const char* kOrderedDict = "collections OrderedDict";
constexpr const char* kRebuildTensor = "torch._utils _rebuild_tensor_v2";
constexpr const char* kRebuildParameter = "torch._utils _rebuild_parameter";

std::optional<DType> storage_dtype(const std::string& global) {
  for (const StorageType& type : kStorageTypes) {
    if (global == type.name) return type.dtype;
  }
  return std::nullopt;
}

// Opcodes of the format that are known but not allowed, for messages.
const char* refused_opcode(uint8_t opcode) {
  switch (opcode) {
    case '0':
      return "POP";
    case '1':
      return "POP_MARK";
    case '2':
      return "DUP";
    case 'F':
      return "FLOAT";
    case 'I':
      return "INT";
    case 'L':
      return "LONG";
    case 'P':
      return "PERSID";
    case 'S':
      return "STRING";
    case 'T':
      return "BINSTRING";
    case 'U':
      return "SHORT_BINSTRING";
    case 'V':
      return "UNICODE";
    case 'd':
      return "DICT";
    case 'g':
      return "GET";
    case 'i':
      return "INST";
    case 'l':
      return "LIST";
    case 'o':
      return "OBJ";
    case 'p':
      return "PUT";
    case 0x81:
      return "NEWOBJ";
    case 0x82:
      return "EXT1";
    case 0x83:
      return "EXT2";
    case 0x84:
      return "EXT4";
    case 0x8b:
      return "LONG4";
    case 0x8d:
      return "BINUNICODE8";
    case 0x8e:
      return "BINBYTES8";
    case 0x8f:
      return "EMPTY_SET";
    case 0x90:
      return "ADDITEMS";
    case 0x91:
      return "FROZENSET";
    case 0x92:
      return "NEWOBJ_EX";
    case 0x96:
      return "BYTEARRAY8";
    case 0x97:
      return "NEXT_BUFFER";
    case 0x98:
      return "READONLY_BUFFER";
    case 'B':
      return "BINBYTES";
    case 'C':
      return "SHORT_BINBYTES";
    default:
      return "unknown";
  }
}

class Unpickler {
 public:
  Unpickler(std::span<const std::byte> bytes, const std::string& source) : bytes_(bytes), source_(source) {}

  const Node& run() {
    while (true) {
      opcode_at_ = at_;
      const uint8_t opcode = byte();
      if (opcode == '.') break;  // STOP
      if (!push_constant(opcode) && !build_container(opcode) && !use_memo(opcode) && !call(opcode)) {
        refuse(cat("the opcode ", refused_opcode(opcode), " (", static_cast<int>(opcode), ")"));
      }
    }
    return *pop();
  }

 private:
  template <class... Args>
  [[noreturn]] void malformed(const Args&... what) const {
    fail(source_, ": byte ", opcode_at_, " of the pickle: ", cat(what...));
  }
  [[noreturn]] void refuse(const std::string& what) const {
    malformed("found ", what, ", expected only what rebuilds tensors");
  }

  uint8_t byte() {
    if (at_ >= bytes_.size()) malformed("found the end, expected more (the file may be truncated)");
    return static_cast<uint8_t>(bytes_[at_++]);
  }
  uint64_t number(int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; ++i) value |= static_cast<uint64_t>(byte()) << (8 * i);
    return value;
  }
  std::string text(uint64_t size) {
    if (size > bytes_.size() - at_)
      malformed("found a text of ", size, " bytes, expected at most ", bytes_.size() - at_);
    std::string out(reinterpret_cast<const char*>(bytes_.data()) + at_, static_cast<size_t>(size));
    at_ += static_cast<size_t>(size);
    return out;
  }
  std::string line() {
    std::string out;
    for (auto c = static_cast<char>(byte()); c != '\n'; c = static_cast<char>(byte())) out += c;
    return out;
  }

  Node* make(Kind kind) {
    nodes_.emplace_back();
    nodes_.back().kind = kind;
    return &nodes_.back();
  }
  Node* push(Kind kind) {
    stack_.push_back(make(kind));
    return stack_.back();
  }
  Node* pop() {
    const size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() <= floor) malformed("found an empty stack, expected a value");
    Node* top = stack_.back();
    stack_.pop_back();
    return top;
  }
  Node* pop(Kind kind, const char* what) {
    Node* top = pop();
    if (top->kind != kind) malformed("found ", kind_name(top->kind), ", expected ", what);
    return top;
  }
  std::vector<Node*> pop_to_mark() {
    if (marks_.empty()) malformed("found no mark on the stack, expected one");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Node*> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }
  std::vector<Node*> pop_count(size_t count) {
    std::vector<Node*> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }
  void push_integer(int64_t value) { push(Kind::integer)->integer = value; }
  void push_boolean(bool value) { push(Kind::boolean)->integer = value ? 1 : 0; }
  void push_tuple(std::vector<Node*> items) { push(Kind::tuple)->items = std::move(items); }
  void push_text(uint64_t size) {
    std::string value = text(size);
    push(Kind::text)->text = std::move(value);
  }

  bool push_constant(uint8_t opcode) {
    switch (opcode) {
      case 0x80: {  // PROTO
        const int protocol = byte();
        if (protocol < 2 || protocol > 5) malformed("found pickle protocol ", protocol, ", expected 2 to 5");
        return true;
      }
      case 0x95:
        return number(8), true;  // FRAME
      case 'N':
        return push(Kind::none), true;  // NONE
      case 0x88:
        return push_boolean(true), true;  // NEWTRUE
      case 0x89:
        return push_boolean(false), true;  // NEWFALSE
      case 'J':
        return push_integer(static_cast<int32_t>(number(4))), true;  // BININT
      case 'K':
        return push_integer(static_cast<int64_t>(number(1))), true;  // BININT1
      case 'M':
        return push_integer(static_cast<int64_t>(number(2))), true;  // BININT2
      case 0x8a:
        return push_integer(long_integer()), true;  // LONG1
      case 'G':
        return number(8), push(Kind::number), true;  // BINFLOAT
      case 'X':
        return push_text(number(4)), true;  // BINUNICODE
      case 0x8c:
        return push_text(number(1)), true;  // SHORT_BINUNICODE
      default:
        return false;
    }
  }

  int64_t long_integer() {
    const int size = byte();
    if (size > 8) malformed("found an integer of ", size, " bytes, expected at most 8");
    const uint64_t value = number(size);
    if (size == 0 || size == 8) return static_cast<int64_t>(value);
    const uint64_t sign = uint64_t{1} << (8 * size - 1);
    return static_cast<int64_t>((value ^ sign) - sign);
  }

  bool build_container(uint8_t opcode) {
    switch (opcode) {
      case '(':
        return marks_.push_back(stack_.size()), true;  // MARK
      case ')':
        return push(Kind::tuple), true;  // EMPTY_TUPLE
      case ']':
        return push(Kind::list), true;  // EMPTY_LIST
      case '}':
        return push(Kind::dict), true;  // EMPTY_DICT
      case 't':
        return push_tuple(pop_to_mark()), true;  // TUPLE
      case 0x85:
        return push_tuple(pop_count(1)), true;  // TUPLE1
      case 0x86:
        return push_tuple(pop_count(2)), true;  // TUPLE2
      case 0x87:
        return push_tuple(pop_count(3)), true;  // TUPLE3
      case 'a':
        return append(pop_count(1)), true;  // APPEND
      case 'e':
        return append(pop_to_mark()), true;  // APPENDS
      case 's':
        return set_items(pop_count(2)), true;  // SETITEM
      case 'u':
        return set_items(pop_to_mark()), true;  // SETITEMS
      default:
        return false;
    }
  }

  void append(const std::vector<Node*>& items) {
    Node* list = pop(Kind::list, "a list to append to");
    list->items.insert(list->items.end(), items.begin(), items.end());
    stack_.push_back(list);
  }
  void set_items(const std::vector<Node*>& items) {
    if (items.size() % 2 != 0) malformed("found a key without a value");
    Node* dict = pop(Kind::dict, "a dict to fill");
    for (size_t i = 0; i < items.size(); i += 2) dict->pairs.emplace_back(items[i], items[i + 1]);
    stack_.push_back(dict);
  }

  bool use_memo(uint8_t opcode) {
    switch (opcode) {
      case 'q':
        return remember(number(1)), true;  // BINPUT
      case 'r':
        return remember(number(4)), true;  // LONG_BINPUT
      case 0x94:
        return remember(memo_.size()), true;  // MEMOIZE
      case 'h':
        return recall(number(1)), true;  // BINGET
      case 'j':
        return recall(number(4)), true;  // LONG_BINGET
      default:
        return false;
    }
  }
  void remember(uint64_t slot) {
    Node* top = pop();
    stack_.push_back(top);
    memo_[slot] = top;  // a map: the slot's number may be anything
  }
  void recall(uint64_t slot) {
    const auto found = memo_.find(slot);
    if (found == memo_.end()) malformed("found no value in slot ", slot, " of the memo, expected one");
    stack_.push_back(found->second);
  }

  bool call(uint8_t opcode) {
    switch (opcode) {
      case 'c': {  // GLOBAL
        const std::string module = line();
        return push_global(module, line()), true;
      }
      case 0x93: {  // STACK_GLOBAL
        const Node* name = pop(Kind::text, "the name of a global");
        const Node* module = pop(Kind::text, "the module of a global");
        return push_global(module->text, name->text), true;
      }
      case 'Q':
        return load_storage(), true;  // BINPERSID
      case 'R':
        return reduce(), true;  // REDUCE
      case 'b':
        return build(), true;  // BUILD
      default:
        return false;
    }
  }

  void push_global(const std::string& module, const std::string& name) {
    const std::string whole = module + " " + name;
    const bool known =
        whole == kOrderedDict || whole == kRebuildTensor || whole == kRebuildParameter || storage_dtype(whole);
    if (!known) refuse(cat("the global '", module.substr(0, 80), ".", name.substr(0, 80), "'"));
    push(Kind::global)->text = whole;
  }

  // ('storage', type, key, device, elements)
  void load_storage() {
    const Node* id = pop(Kind::tuple, "the id of a storage");
    const auto& part = id->items;
    const bool fits = part.size() == 5 && part[0]->kind == Kind::text && part[0]->text == "storage" &&
                      part[1]->kind == Kind::global && part[2]->kind == Kind::text && part[4]->kind == Kind::integer;
    if (!fits) malformed("found another persistent id, expected ('storage', type, key, device, size)");
    const auto dtype = storage_dtype(part[1]->text);
    if (!dtype) malformed("found the storage type '", part[1]->text, "', expected a storage of torch");
    Node* storage = push(Kind::storage);
    storage->dtype = *dtype;
    storage->text = part[2]->text;
    storage->integer = part[4]->integer;
  }

  void reduce() {
    const Node* arguments = pop(Kind::tuple, "the arguments of a call");
    const std::string function = pop(Kind::global, "a function to call")->text;
    const auto& items = arguments->items;
    if (function == kOrderedDict) {
      if (!items.empty()) malformed("found arguments of OrderedDict, expected none");
      push(Kind::dict);
    } else if (function == kRebuildTensor) {
      rebuild_tensor(items);
    } else if (function == kRebuildParameter) {
      if (items.size() != 3 || items[0]->kind != Kind::tensor) malformed("found a parameter without a tensor");
      stack_.push_back(items[0]);
    } else {
      refuse(cat("a call of '", function, "'"));
    }
  }

  std::vector<int64_t> integers(const Node& tuple, const char* what) const {
    std::vector<int64_t> out;
    if (tuple.kind != Kind::tuple) malformed("found ", kind_name(tuple.kind), ", expected the ", what, " of a tensor");
    for (const Node* item : tuple.items) {
      if (item->kind != Kind::integer) malformed("found ", kind_name(item->kind), " in the ", what, " of a tensor");
      out.push_back(item->integer);
    }
    return out;
  }

  // (storage, offset, shape, strides, requires_grad, hooks[, metadata])
  void rebuild_tensor(const std::vector<Node*>& items) {
    if (items.size() < 6 || items.size() > 7 || items[0]->kind != Kind::storage || items[1]->kind != Kind::integer) {
      malformed("found other arguments of a tensor, expected (storage, offset, shape, strides, requires_grad, hooks)");
    }
    TorchTensor tensor;
    tensor.dtype = items[0]->dtype;
    tensor.key = items[0]->text;
    tensor.storage_size = items[0]->integer;
    tensor.offset = items[1]->integer;
    tensor.shape = integers(*items[2], "shape");
    tensor.strides = integers(*items[3], "strides");
    push(Kind::tensor)->tensor = std::make_unique<TorchTensor>(std::move(tensor));
  }

  // State of an object: of an OrderedDict only, whose attribute `_metadata` PyTorch keeps version numbers in.
  void build() {
    const Node* state = pop();
    Node* object = pop(Kind::dict, "a dict to give a state to");
    if (state->kind != Kind::dict) malformed("found ", kind_name(state->kind), " as a state, expected a dict");
    stack_.push_back(object);
  }

  std::span<const std::byte> bytes_;
  const std::string& source_;
  size_t at_ = 0;
  size_t opcode_at_ = 0;
  std::deque<Node> nodes_;  // owns all nodes, so that cycles among them do no harm
  std::vector<Node*> stack_;
  std::vector<size_t> marks_;
  std::map<uint64_t, Node*> memo_;
};

const Node* value_of(const Node& dict, const std::string& key) {
  for (const auto& [name, value] : dict.pairs) {
    if (name->kind == Kind::text && name->text == key) return value;
  }
  return nullptr;
}

}  // namespace

std::vector<TorchTensor> read_torch_pickle(std::span<const std::byte> bytes, const std::string& source) {
  Unpickler unpickler(bytes, source);
  const Node* root = &unpickler.run();
  check(root->kind == Kind::dict, source, ": found ", kind_name(root->kind), ", expected a dict of tensors");
  const Node* inner = value_of(*root, "state_dict");  // what training programs save beside other things
  if (inner != nullptr && inner->kind == Kind::dict) root = inner;
  std::vector<TorchTensor> tensors;
  std::set<std::string> seen;
  std::string others;
  for (const auto& [name, value] : root->pairs) {
    check(name->kind == Kind::text, source, ": found ", kind_name(name->kind), " as a key, expected a tensor's name");
    check(seen.insert(name->text).second, source, ": tensor '", name->text,
          "': found it more than once, expected once");
    if (value->kind != Kind::tensor) {
      others += cat("; '", name->text, "' is ", kind_name(value->kind));
      continue;
    }
    tensors.push_back(*value->tensor);
    tensors.back().name = name->text;
  }
  check(others.empty(), source, ": found entries that are no tensors, expected a state dict", others);
  return tensors;
}

}  // namespace matvlm
