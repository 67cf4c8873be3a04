// cuDNN's backend API behind DnnGraph: descriptors that destroy themselves, the choice of an engine, the plan.
#include "core/dnn_graph.h"

#include <cudnn.h>

#include <deque>

#include "core/cuda_context.h"
#include "core/tensor.h"

namespace matvlm {
namespace {

void dnn_check(const std::string& name, cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char details[512] = "";
  cudnnGetLastErrorString(details, sizeof(details));
  fail("[", name, "] cuDNN, ", what, ": ", cudnnGetErrorString(status), " ", details);
}

class Descriptor {
 public:
  Descriptor(const std::string& name, cudnnBackendDescriptorType_t type, const char* what) : name_(name), what_(what) {
    dnn_check(name_, cudnnBackendCreateDescriptor(type, &descriptor_), what_);
  }
  ~Descriptor() {
    if (descriptor_ != nullptr) cudnnBackendDestroyDescriptor(descriptor_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void set(cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
    dnn_check(name_, cudnnBackendSetAttribute(descriptor_, attribute, type, count, values), what_);
  }
  void set(cudnnBackendAttributeName_t attribute, const Descriptor& value) {
    set(attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.descriptor_);
  }
  void finalize() { dnn_check(name_, cudnnBackendFinalize(descriptor_), what_); }
  bool try_finalize() { return cudnnBackendFinalize(descriptor_) == CUDNN_STATUS_SUCCESS; }
  cudnnBackendDescriptor_t get() const { return descriptor_; }

 private:
  std::string name_;
  const char* what_;
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

cudnnDataType_t data_type(DnnType type) {
  switch (type) {
    case DnnType::bf16:
      return CUDNN_DATA_BFLOAT16;
    case DnnType::i32:
      return CUDNN_DATA_INT32;
    case DnnType::boolean:
      return CUDNN_DATA_BOOLEAN;
    default:
      return CUDNN_DATA_FLOAT;
  }
}

cudnnPointwiseMode_t pointwise_mode(DnnPointwise mode) {
  switch (mode) {
    case DnnPointwise::add:
      return CUDNN_POINTWISE_ADD;
    case DnnPointwise::subtract:
      return CUDNN_POINTWISE_SUB;
    case DnnPointwise::multiply:
      return CUDNN_POINTWISE_MUL;
    case DnnPointwise::divide:
      return CUDNN_POINTWISE_DIV;
    case DnnPointwise::exp:
      return CUDNN_POINTWISE_EXP;
    case DnnPointwise::log:
      return CUDNN_POINTWISE_LOG;
    case DnnPointwise::less:
      return CUDNN_POINTWISE_CMP_LT;
    case DnnPointwise::greater_equal:
      return CUDNN_POINTWISE_CMP_GE;
    case DnnPointwise::logical_and:
      return CUDNN_POINTWISE_LOGICAL_AND;
    case DnnPointwise::select:
      return CUDNN_POINTWISE_BINARY_SELECT;
    default:
      return CUDNN_POINTWISE_IDENTITY;
  }
}

}  // namespace

cudnnContext* make_dnn_handle(void* stream) {
  cudnnHandle_t handle = nullptr;
  dnn_check("cuda", cudnnCreate(&handle), "a handle");
  dnn_check("cuda", cudnnSetStream(handle, static_cast<cudaStream_t>(stream)), "its stream");
  return handle;
}

void destroy_dnn_handle(cudnnContext* handle) noexcept {
  if (handle != nullptr) cudnnDestroy(handle);
}

int64_t dnn_version() { return static_cast<int64_t>(cudnnGetVersion()); }

// Descriptors stay where they are: a finalised one is referred to by those that were set to it.
struct DnnGraph::Parts {
  std::string name;
  cudnnHandle_t handle = nullptr;
  std::deque<Descriptor> tensors;     // tensor i has number i + 1
  std::deque<Descriptor> operations;  // and what they refer to
  std::vector<cudnnBackendDescriptor_t> order;
  std::deque<float> numbers;  // by value: read when the plan runs
  std::vector<std::pair<DnnTensor, const void*>> number_pointers;
  std::unique_ptr<Descriptor> graph, config, plan;
  int64_t workspace_bytes = 0;

  const Descriptor& tensor(DnnTensor t) const { return tensors[static_cast<size_t>(t - 1)]; }
  DnnTensor add(const DnnTensorInfo& info, bool is_virtual, bool by_value);
  Descriptor& part(cudnnBackendDescriptorType_t type, const char* what) {
    return operations.emplace_back(name, type, what);
  }
  void pointwise(Descriptor& mode, const std::vector<DnnTensor>& inputs, DnnTensor out);
  bool plan_of_mode(cudnnBackendHeurMode_t mode);
};

DnnTensor DnnGraph::Parts::add(const DnnTensorInfo& info, bool is_virtual, bool by_value) {
  Descriptor& d = tensors.emplace_back(name, CUDNN_BACKEND_TENSOR_DESCRIPTOR, "a tensor");
  const auto number = static_cast<DnnTensor>(tensors.size());
  const cudnnDataType_t type = data_type(info.type);
  const int64_t alignment = 16;
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, static_cast<int64_t>(info.dims.size()), info.dims.data());
  d.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, static_cast<int64_t>(info.strides.size()), info.strides.data());
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &number);
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  const bool yes = true;
  if (is_virtual) d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
  if (by_value) d.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
  if (info.offsets != 0) d.set(CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, tensor(info.offsets));
  d.finalize();
  return number;
}

void DnnGraph::Parts::pointwise(Descriptor& mode, const std::vector<DnnTensor>& inputs, DnnTensor out) {
  constexpr cudnnBackendAttributeName_t kInputs[] = {
      CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CUDNN_ATTR_OPERATION_POINTWISE_TDESC};
  mode.finalize();
  Descriptor& d = part(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "a pointwise operation");
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, mode);
  for (size_t i = 0; i < inputs.size(); ++i) d.set(kInputs[i], tensor(inputs[i]));
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, tensor(out));
  d.finalize();
  order.push_back(d.get());
}

DnnGraph::DnnGraph(Context& ctx, std::string name) : parts_(std::make_unique<Parts>()) {
  check(ctx.on_gpu(), "[", name, "] cuDNN: found device ", device_name(ctx.device()), ", expected a GPU");
  parts_->name = std::move(name);
  parts_->handle = ctx.cuda()->dnn();
}

DnnGraph::~DnnGraph() = default;

DnnTensor DnnGraph::memory(const DnnTensorInfo& info) { return parts_->add(info, false, false); }

DnnTensor DnnGraph::inner(const DnnTensorInfo& info) { return parts_->add(info, true, false); }

DnnTensor DnnGraph::number(float value) {
  const DnnTensor t = parts_->add({{1, 1, 1, 1}, {1, 1, 1, 1}, DnnType::f32, 0}, false, true);
  parts_->numbers.push_back(value);
  parts_->number_pointers.emplace_back(t, &parts_->numbers.back());
  return t;
}

void DnnGraph::matmul(DnnTensor a, DnnTensor b, DnnTensor c, const DnnLengths& lengths, bool padding) {
  Descriptor& product = parts_->part(CUDNN_BACKEND_MATMUL_DESCRIPTOR, "a product");
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  product.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  const double zero = 0;
  if (padding) product.set(CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, 1, &zero);
  product.finalize();
  Descriptor& d = parts_->part(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "a product");
  d.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, parts_->tensor(a));
  d.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, parts_->tensor(b));
  d.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, parts_->tensor(c));
  d.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, product);
  if (lengths.m != 0) d.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, parts_->tensor(lengths.m));
  if (lengths.n != 0) d.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, parts_->tensor(lengths.n));
  if (lengths.k != 0) d.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, parts_->tensor(lengths.k));
  d.finalize();
  parts_->order.push_back(d.get());
}

void DnnGraph::pointwise(DnnPointwise mode, const std::vector<DnnTensor>& inputs, DnnTensor out, DnnType compute) {
  Descriptor& p = parts_->part(CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "a pointwise mode");
  const cudnnPointwiseMode_t dnn_mode = pointwise_mode(mode);
  const cudnnDataType_t type = data_type(compute);
  p.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &dnn_mode);
  p.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
  parts_->pointwise(p, inputs, out);
}

void DnnGraph::index(DnnTensor like, int64_t axis, DnnTensor out, DnnType compute) {
  Descriptor& p = parts_->part(CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "a pointwise mode");
  const cudnnPointwiseMode_t mode = CUDNN_POINTWISE_GEN_INDEX;
  const cudnnDataType_t type = data_type(compute);
  p.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  p.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
  p.set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
  parts_->pointwise(p, {like}, out);
}

void DnnGraph::reduce(DnnReduction mode, DnnTensor in, DnnTensor out) {
  Descriptor& r = parts_->part(CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "a reduction");
  const cudnnReduceTensorOp_t op = mode == DnnReduction::max ? CUDNN_REDUCE_TENSOR_MAX : CUDNN_REDUCE_TENSOR_ADD;
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  r.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  r.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &op);
  r.finalize();
  Descriptor& d = parts_->part(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "a reduction");
  d.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, r);
  d.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, parts_->tensor(in));
  d.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, parts_->tensor(out));
  d.finalize();
  parts_->order.push_back(d.get());
}

void DnnGraph::reshape(DnnTensor in, DnnTensor out) {
  Descriptor& d = parts_->part(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, "a reshape");
  d.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, parts_->tensor(in));
  d.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, parts_->tensor(out));
  d.finalize();
  parts_->order.push_back(d.get());
}

// The first engine of a heuristic that takes the graph.
bool DnnGraph::Parts::plan_of_mode(cudnnBackendHeurMode_t mode) {
  Descriptor heuristic(name, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "the heuristic");
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, *graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (!heuristic.try_finalize()) return false;
  int64_t count = 0;
  dnn_check(name,
            cudnnBackendGetAttribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0,
                                     &count, nullptr),
            "the heuristic's results");
  std::vector<std::unique_ptr<Descriptor>> configs;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < count; ++i) {
    configs.push_back(std::make_unique<Descriptor>(name, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "an engine"));
    raw.push_back(configs.back()->get());
  }
  dnn_check(name,
            cudnnBackendGetAttribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                     count, &count, raw.data()),
            "the heuristic's results");
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    auto candidate = std::make_unique<Descriptor>(name, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "the plan");
    candidate->set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    candidate->set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, *configs[i]);
    if (!candidate->try_finalize()) continue;
    int64_t found = 0;
    dnn_check(name,
              cudnnBackendGetAttribute(candidate->get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                       &found, &workspace_bytes),
              "the plan's workspace");
    config = std::move(configs[i]);
    plan = std::move(candidate);
    return true;
  }
  return false;
}

void DnnGraph::build() {
  Parts& p = *parts_;
  p.graph = std::make_unique<Descriptor>(p.name, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "the graph");
  p.graph->set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(p.order.size()),
               p.order.data());
  p.graph->set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &p.handle);
  p.graph->finalize();
  if (p.plan_of_mode(CUDNN_HEUR_MODE_A) || p.plan_of_mode(CUDNN_HEUR_MODE_FALLBACK)) return;
  char details[512] = "";
  cudnnGetLastErrorString(details, sizeof(details));
  fail("[", p.name, "] cuDNN ", dnn_version(), " has no engine for it: ", details);
}

void DnnGraph::run(Context& ctx, const std::vector<std::pair<DnnTensor, const void*>>& pointers) const {
  const Parts& p = *parts_;
  std::vector<int64_t> numbers;
  std::vector<const void*> addresses;
  for (const auto& list : {pointers, p.number_pointers}) {
    for (const auto& [tensor, address] : list) {
      numbers.push_back(tensor);
      addresses.push_back(address);
    }
  }
  const Tensor workspace = Tensor::empty(ctx, {p.workspace_bytes}, DType::u8);
  void* workspace_address = p.workspace_bytes > 0 ? workspace.raw() : nullptr;
  Descriptor pack(p.name, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "the pointers");
  const auto count = static_cast<int64_t>(numbers.size());
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, addresses.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, numbers.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace_address);
  pack.finalize();
  dnn_check(p.name, cudnnBackendExecute(p.handle, p.plan->get(), pack.get()), "running the plan");
}

}  // namespace matvlm
