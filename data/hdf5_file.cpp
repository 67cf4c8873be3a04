// The only file that includes hdf5.h. Handles are owned by Handle; the library's own error output is switched off and
// its reason put into our message.
#include "data/hdf5_file.h"

#include <fcntl.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "core/error.h"

namespace matvlm {
namespace {

constexpr hsize_t kChunkBytes = 64 * 1024;
constexpr unsigned kDeflateLevel = 4;
// Of deflate's format: no stream grows by more than this.
constexpr hsize_t kMostInflated = 1032;
constexpr size_t kBufferBytes = 1024 * 1024;  // appended data waits in memory up to this size

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

// Serialises calls and silences the library. The error stack is per thread in thread-safe builds, hence every time.
class LibraryLock {
 public:
  LibraryLock() : lock_(library_mutex()) {
    // Without its exit handler, which crashes on a file that could not be closed because the disk is full; Handle
    // closes everything itself. Has an effect only before the first other call.
    static const herr_t no_exit_handler = H5dont_atexit();
    static_cast<void>(no_exit_handler);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5Eclear2(H5E_DEFAULT);
  }

 private:
  std::lock_guard<std::mutex> lock_;
};

herr_t keep_first(unsigned depth, const H5E_error2_t* error, void* out) {
  if (depth == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
  return 0;
}

// The innermost reason on the library's error stack, in one line.
std::string library_reason() {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  return reason.empty() ? "unknown reason" : reason;
}

class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*closer)(hid_t)) : id_(id), close_(closer) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  hid_t get() const { return id_; }
  // Closes now; false when the library could not (what was written may be lost).
  bool close() { return id_ < 0 || close_(std::exchange(id_, H5I_INVALID_HID)) >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
  herr_t (*close_)(hid_t) = nullptr;
};

struct ElementType {
  const char* name;
  hid_t file;
  hid_t memory;
  size_t bytes;
};

// H5T_* are macros that initialise the library, so these cannot be constants.
ElementType type_of(const uint8_t*) { return {"uint8", H5T_STD_U8LE, H5T_NATIVE_UINT8, 1}; }
ElementType type_of(const int32_t*) { return {"int32", H5T_STD_I32LE, H5T_NATIVE_INT32, 4}; }
ElementType type_of(const int64_t*) { return {"int64", H5T_STD_I64LE, H5T_NATIVE_INT64, 8}; }

struct Pending {
  ElementType type{};
  std::vector<uint8_t> bytes;
};

}  // namespace

struct Hdf5File::Impl {
  std::string path;
  std::string temporary;  // empty when reading
  Hdf5Compression compression = Hdf5Compression::none;
  Handle file;
  std::map<std::string, Pending> pending;
  mutable std::map<std::string, Handle> arrays;
  mutable std::map<std::string, int64_t> lengths;  // when reading: what check_stored asks for is a walk over all chunks

  ~Impl() {
    const LibraryLock lock;
    arrays.clear();
    file.close();
    if (!temporary.empty()) unlink(temporary.c_str());
  }

  template <class Result>
  Result must(Result result, const std::string& what) const {
    if (result < 0) fail(path, ": ", what, ": ", library_reason());
    return result;
  }

  hid_t array(const std::string& name) const {
    const auto place = arrays.find(name);
    if (place != arrays.end()) return place->second.get();
    Handle opened(H5Dopen2(file.get(), name.c_str(), H5P_DEFAULT), H5Dclose);
    must(opened.get(), "cannot open the array '" + name + "'");
    return arrays.emplace(name, std::move(opened)).first->second.get();
  }

  bool deflated(const std::string& name) const {
    const Handle layout(must(H5Dget_create_plist(array(name)), "array '" + name + "'"), H5Pclose);
    return must(H5Pget_layout(layout.get()), "array '" + name + "'") == H5D_CHUNKED &&
           H5Pget_filter_by_id2(layout.get(), H5Z_FILTER_DEFLATE, nullptr, nullptr, nullptr, 0, nullptr, nullptr) >= 0;
  }

  // Elements that were never written cost nothing in a file, and as much memory as it likes in a reader.
  void check_stored(const std::string& name, hsize_t size) const {
    if (!temporary.empty()) return;  // our own, whose last elements may still be in the cache
    hsize_t whole = 0;
    must(H5Fget_filesize(file.get(), &whole), "cannot find the size");
    hsize_t stored = std::min<hsize_t>(H5Dget_storage_size(array(name)), whole);
    if (deflated(name)) {
      const Handle type(must(H5Dget_type(array(name)), "array '" + name + "'"), H5Tclose);
      stored = stored * kMostInflated / std::max<size_t>(H5Tget_size(type.get()), 1);
    }
    check(size <= stored, path, ": array '", name, "': found ", size, " elements in ", stored,
          " bytes of the file, expected fewer");
  }

  int64_t length(const std::string& name) const {
    if (const auto known = lengths.find(name); known != lengths.end()) return known->second;
    const Handle space(H5Dget_space(array(name)), H5Sclose);
    const int rank = must(H5Sget_simple_extent_ndims(space.get()), "array '" + name + "'");
    check(rank == 1, path, ": array '", name, "': found ", rank, " dimensions, expected 1");
    hsize_t size = 0;
    must(H5Sget_simple_extent_dims(space.get(), &size, nullptr), "array '" + name + "'");
    check_stored(name, size);
    if (temporary.empty()) lengths.emplace(name, static_cast<int64_t>(size));
    return static_cast<int64_t>(size);
  }

  void create_array(const std::string& name, const ElementType& type) {
    const hsize_t none = 0;
    const hsize_t unlimited = H5S_UNLIMITED;
    const hsize_t chunk = kChunkBytes / type.bytes;
    const Handle space(H5Screate_simple(1, &none, &unlimited), H5Sclose);
    const Handle layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    const Handle groups(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    const std::string what = "cannot make the array '" + name + "'";
    must(H5Pset_chunk(layout.get(), 1, &chunk), what);
    if (compression == Hdf5Compression::deflate) {
      must(H5Pset_shuffle(layout.get()), what);
      must(H5Pset_deflate(layout.get(), kDeflateLevel), what);
    }
    must(H5Pset_fletcher32(layout.get()), what);
    must(H5Pset_obj_track_times(layout.get(), false), what);  // the same content is the same file
    must(H5Pset_create_intermediate_group(groups.get(), 1), what);
    Handle made(H5Dcreate2(file.get(), name.c_str(), type.file, space.get(), groups.get(), layout.get(), H5P_DEFAULT),
                H5Dclose);
    must(made.get(), what);
    arrays.emplace(name, std::move(made));
  }

  void write_pending(const std::string& name, Pending& data) {
    if (data.bytes.empty()) return;
    const std::string what = "cannot write the array '" + name + "'";
    const hsize_t begin = static_cast<hsize_t>(length(name));
    const hsize_t count = data.bytes.size() / data.type.bytes;
    const hsize_t end = begin + count;
    must(H5Dset_extent(array(name), &end), what);
    const Handle file_space(H5Dget_space(array(name)), H5Sclose);
    const Handle memory_space(H5Screate_simple(1, &count, nullptr), H5Sclose);
    must(H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, &begin, nullptr, &count, nullptr), what);
    must(H5Dwrite(array(name), data.type.memory, memory_space.get(), file_space.get(), H5P_DEFAULT, data.bytes.data()),
         what);
    data.bytes.clear();
  }

  template <class T>
  void append(const std::string& name, std::span<const T> values) {
    const LibraryLock lock;
    const ElementType type = type_of(static_cast<const T*>(nullptr));
    const auto [place, is_new] = pending.try_emplace(name, Pending{type, {}});
    if (is_new) create_array(name, type);
    check(std::strcmp(place->second.type.name, type.name) == 0, path, ": array '", name, "': found ", type.name,
          ", expected ", place->second.type.name);
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    place->second.bytes.insert(place->second.bytes.end(), bytes, bytes + values.size_bytes());
    if (place->second.bytes.size() >= kBufferBytes) write_pending(name, place->second);
  }

  template <class T>
  void read(const std::string& name, int64_t begin, std::span<T> out) const {
    const LibraryLock lock;
    const ElementType type = type_of(static_cast<const T*>(nullptr));
    const int64_t size = length(name);
    const auto count = static_cast<int64_t>(out.size());
    const Handle stored(H5Dget_type(array(name)), H5Tclose);
    check(H5Tequal(stored.get(), type.file) > 0, path, ": array '", name, "': found another element type, expected ",
          type.name, ", little-endian");
    check(begin >= 0 && count <= size && begin <= size - count, path, ": array '", name, "': found ", size,
          " elements, expected ", begin, " + ", count);
    if (count == 0) return;
    const auto first = static_cast<hsize_t>(begin);
    const auto many = static_cast<hsize_t>(count);
    const std::string what = "cannot read the array '" + name + "'";
    const Handle file_space(must(H5Dget_space(array(name)), what), H5Sclose);
    const Handle memory_space(must(H5Screate_simple(1, &many, nullptr), what), H5Sclose);
    must(H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, &first, nullptr, &many, nullptr), what);
    must(H5Dread(array(name), type.memory, memory_space.get(), file_space.get(), H5P_DEFAULT, out.data()), what);
  }

  Handle open_attribute(const std::string& name) const {
    Handle attribute(H5Aopen(file.get(), name.c_str(), H5P_DEFAULT), H5Aclose);
    check(attribute.get() >= 0, path, ": found no attribute '", name, "', expected it: no pack of this program");
    return attribute;
  }
};

Hdf5File::Hdf5File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Hdf5File::Hdf5File(Hdf5File&&) noexcept = default;
Hdf5File& Hdf5File::operator=(Hdf5File&&) noexcept = default;
Hdf5File::~Hdf5File() = default;

const std::string& Hdf5File::path() const { return impl_->path; }

Hdf5Compression parse_hdf5_compression(const std::string& name) {
  if (name == "none") return Hdf5Compression::none;
  if (name == "deflate") return Hdf5Compression::deflate;
  fail("compression: found '", name, "', expected none or deflate");
}

Hdf5File Hdf5File::create(const std::string& path, Hdf5Compression compression) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->compression = compression;
  const LibraryLock lock;
  const std::string temporary = cat(path, ".tmp-", getpid());
  impl->file = Handle(H5Fcreate(temporary.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose);
  if (impl->file.get() < 0) fail(path, ": cannot make the file: ", library_reason());
  impl->temporary = temporary;
  return Hdf5File(std::move(impl));
}

Hdf5File Hdf5File::open(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) fail(path, ": cannot open: ", std::strerror(errno));
  if (S_ISDIR(status.st_mode)) fail(path, ": found a folder, expected an HDF5 file");
  if (status.st_size == 0) fail(path, ": found an empty file, expected an HDF5 file");
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  const LibraryLock lock;
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  // Packs are only ever replaced by rename: no locks, which some network file systems lack.
  impl->must(H5Pset_file_locking(access.get(), false, true), "cannot open");
  impl->file = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
  if (impl->file.get() < 0) fail(path, ": found no whole HDF5 file: ", library_reason());
  return Hdf5File(std::move(impl));
}

void Hdf5File::write_attribute(const std::string& name, int64_t value) {
  const LibraryLock lock;
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle made(H5Acreate2(impl_->file.get(), name.c_str(), H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                    H5Aclose);
  const std::string what = "cannot write the attribute '" + name + "'";
  impl_->must(made.get(), what);
  impl_->must(H5Awrite(made.get(), H5T_NATIVE_INT64, &value), what);
}

void Hdf5File::write_attribute(const std::string& name, const std::string& value) {
  const LibraryLock lock;
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  const std::string what = "cannot write the attribute '" + name + "'";
  impl_->must(H5Tset_size(type.get(), value.size() + 1), what);  // HDF5 has no strings of size 0
  impl_->must(H5Tset_cset(type.get(), H5T_CSET_UTF8), what);
  const Handle made(H5Acreate2(impl_->file.get(), name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
                    H5Aclose);
  impl_->must(made.get(), what);
  impl_->must(H5Awrite(made.get(), type.get(), value.c_str()), what);
}

bool Hdf5File::has_attribute(const std::string& name) const {
  const LibraryLock lock;
  return impl_->must(H5Aexists(impl_->file.get(), name.c_str()), "cannot look for the attribute '" + name + "'") > 0;
}

int64_t Hdf5File::int_attribute(const std::string& name) const {
  const LibraryLock lock;
  const Handle attribute = impl_->open_attribute(name);
  const Handle type(H5Aget_type(attribute.get()), H5Tclose);
  const Handle space(H5Aget_space(attribute.get()), H5Sclose);
  const bool single = H5Sget_simple_extent_npoints(space.get()) == 1;
  check(single && H5Tget_class(type.get()) == H5T_INTEGER, impl_->path, ": attribute '", name,
        "': found another type, expected one integer");
  int64_t value = 0;
  impl_->must(H5Aread(attribute.get(), H5T_NATIVE_INT64, &value), "cannot read the attribute '" + name + "'");
  return value;
}

std::string Hdf5File::string_attribute(const std::string& name) const {
  const LibraryLock lock;
  const Handle attribute = impl_->open_attribute(name);
  const Handle type(H5Aget_type(attribute.get()), H5Tclose);
  const Handle space(H5Aget_space(attribute.get()), H5Sclose);
  const bool single = H5Sget_simple_extent_npoints(space.get()) == 1;
  check(single && H5Tget_class(type.get()) == H5T_STRING && H5Tis_variable_str(type.get()) == 0, impl_->path,
        ": attribute '", name, "': found another type, expected one string of fixed length");
  std::string value(H5Tget_size(type.get()), '\0');
  impl_->must(H5Aread(attribute.get(), type.get(), value.data()), "cannot read the attribute '" + name + "'");
  return value.c_str();  // up to the terminating zero
}

int64_t Hdf5File::length(const std::string& name) const {
  const LibraryLock lock;
  return impl_->length(name);
}

void Hdf5File::append(const std::string& name, std::span<const uint8_t> values) { impl_->append(name, values); }
void Hdf5File::append(const std::string& name, std::span<const int32_t> values) { impl_->append(name, values); }
void Hdf5File::append(const std::string& name, std::span<const int64_t> values) { impl_->append(name, values); }
void Hdf5File::read(const std::string& name, int64_t begin, std::span<uint8_t> out) const {
  impl_->read(name, begin, out);
}
void Hdf5File::read(const std::string& name, int64_t begin, std::span<int32_t> out) const {
  impl_->read(name, begin, out);
}
void Hdf5File::read(const std::string& name, int64_t begin, std::span<int64_t> out) const {
  impl_->read(name, begin, out);
}

namespace {

void sync_path(const std::string& path, const std::string& shown) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(shown, ": cannot flush to the disk: ", std::strerror(errno));
  const int result = fsync(descriptor);
  const int reason = errno;
  ::close(descriptor);
  if (result != 0) fail(shown, ": cannot flush to the disk: ", std::strerror(reason));
}

}  // namespace

void Hdf5File::commit(const std::string& path) {
  impl_->path = path;
  commit();
}

void Hdf5File::commit() {
  {
    const LibraryLock lock;
    for (auto& [name, data] : impl_->pending) impl_->write_pending(name, data);
    for (auto& [name, handle] : impl_->arrays) {
      if (!handle.close()) fail(impl_->path, ": cannot write the array '", name, "': ", library_reason());
    }
    impl_->arrays.clear();
    if (!impl_->file.close()) fail(impl_->path, ": cannot write: ", library_reason());
  }
  sync_path(impl_->temporary, impl_->path);
  if (rename(impl_->temporary.c_str(), impl_->path.c_str()) != 0) {
    fail(impl_->path, ": cannot rename ", impl_->temporary, " to it: ", std::strerror(errno));
  }
  impl_->temporary.clear();
  const size_t slash = impl_->path.rfind('/');
  sync_path(slash == std::string::npos ? "." : impl_->path.substr(0, slash + 1), impl_->path);
}

}  // namespace matvlm
