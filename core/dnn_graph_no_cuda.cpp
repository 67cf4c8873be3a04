// Stands in for dnn_graph_cuda.cpp where the build has no CUDA.
#include "core/dnn_graph.h"
#include "core/error.h"

namespace matvlm {

struct DnnGraph::Parts {};

int64_t dnn_version() { return 0; }

DnnGraph::DnnGraph(Context&, std::string name) { fail("[", name, "] this build has no CUDA and cuDNN"); }
DnnGraph::~DnnGraph() = default;
DnnTensor DnnGraph::memory(const DnnTensorInfo&) { return 0; }
DnnTensor DnnGraph::inner(const DnnTensorInfo&) { return 0; }
DnnTensor DnnGraph::number(float) { return 0; }
void DnnGraph::matmul(DnnTensor, DnnTensor, DnnTensor, const DnnLengths&, bool) {}
void DnnGraph::pointwise(DnnPointwise, const std::vector<DnnTensor>&, DnnTensor, DnnType) {}
void DnnGraph::index(DnnTensor, int64_t, DnnTensor, DnnType) {}
void DnnGraph::reduce(DnnReduction, DnnTensor, DnnTensor) {}
void DnnGraph::reshape(DnnTensor, DnnTensor) {}
void DnnGraph::build() {}
void DnnGraph::run(Context&, const std::vector<std::pair<DnnTensor, const void*>>&) const {}

}  // namespace matvlm
