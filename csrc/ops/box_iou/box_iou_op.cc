// Four ops: pairwise and elementwise, each with its gradient.
#include "common/op.h"
#include "ops/box_iou/box_iou.h"

namespace kvision {
namespace {

// The boxes and what comes of them, by whether they are compared pairwise.
constexpr const char* kBoxes2[] = {"batch num_boxes1 4", "batch num_boxes2 4"};
constexpr const char* kOutput[] = {"batch num_boxes1", "batch num_boxes1 num_boxes2"};

template <bool kPairwise>
std::string Check(const Attributes& attributes, const Sizes&) {
  IouKind kind;
  return ParseIouKind(attributes.String("kind"), kPairwise, &kind);
}

template <bool kPairwise>
BoxIouParameters Parameters(const Call& call) {
  IouKind kind = IouKind::kIou;
  ParseIouKind(call.attributes.String("kind"), kPairwise, &kind);
  const int64_t num_boxes1 = call.sizes["num_boxes1"];
  return {call.sizes["batch"], num_boxes1, kPairwise ? call.sizes["num_boxes2"] : num_boxes1, kind,
          kPairwise};
}

template <bool kPairwise, typename F>
Error Forward(const Call& call) {
  const BoxIouParameters parameters = Parameters<kPairwise>(call);
  const F* boxes1 = call.In<F>("boxes1");
  const F* boxes2 = call.In<F>("boxes2");
  F* output = call.Out<F>("output");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return BoxIouForwardCuda<F>(parameters, boxes1, boxes2, output, call.device.stream);
    });
  }
#endif
  BoxIouForward<F>(parameters, boxes1, boxes2, output, call.device.parallel_for);
  return {};
}

template <bool kPairwise, typename F>
Error Backward(const Call& call) {
  const BoxIouParameters parameters = Parameters<kPairwise>(call);
  const F* output_gradient = call.In<F>("output_gradient");
  const F* boxes1 = call.In<F>("boxes1");
  const F* boxes2 = call.In<F>("boxes2");
  F* gradient1 = call.Out<F>("gradient1");
  F* gradient2 = call.Out<F>("gradient2");
#ifdef KVISION_WITH_CUDA
  if (call.device.on_cuda) {
    return call.OnCuda(0, [&](void*) {
      return BoxIouBackwardCuda<F>(parameters, output_gradient, boxes1, boxes2, gradient1,
                                   gradient2, call.device.stream);
    });
  }
#endif
  BoxIouBackward<F>(parameters, output_gradient, boxes1, boxes2, gradient1, gradient2,
                    call.device.parallel_for);
  return {};
}

constexpr char kPairwiseDoc[] = R"(IoU, GIoU, DIoU or CIoU of every pair of boxes.

boxes1: (batch, num_boxes1, 4), x1 y1 x2 y2.
boxes2: (batch, num_boxes2, 4).
kind: "iou", "giou", "diou" or "ciou".
output: (batch, num_boxes1, num_boxes2).
)";
constexpr char kElementwiseDoc[] = R"(IoU, GIoU, DIoU or CIoU of the boxes at equal places.

boxes1: (batch, num_boxes1, 4), x1 y1 x2 y2.
boxes2: (batch, num_boxes1, 4).
kind: "iou", "giou", "diou" or "ciou".
output: (batch, num_boxes1).
)";

template <bool kPairwise>
Op Iou() {
  Op op(BoxIouName(kPairwise), kPairwise ? kPairwiseDoc : kElementwiseDoc);
  op.dtypes = {"float32", "float64"};
  op.inputs = {{"boxes1", "T", "batch num_boxes1 4"}, {"boxes2", "T", kBoxes2[kPairwise]}};
  op.outputs = {{"output", "T", kOutput[kPairwise]}};
  op.attributes = {{"kind", Kind::kString, "iou"}};
  op.check = &Check<kPairwise>;
  op.run = [](const Call& call) -> Error {
    if (call.HasNoOutput()) return {};
    return call.For<float, double>(
        [&](auto type) { return Forward<kPairwise, decltype(type)>(call); });
  };
  return op;
}

template <bool kPairwise>
Op IouGradient() {
  Op op(kPairwise ? "pairwise_iou_gradient" : "elementwise_iou_gradient",
        "Gradients of the overlaps with respect to both sets of boxes.");
  op.speaker = BoxIouName(kPairwise);
  op.dtypes = {"float32", "float64"};
  op.inputs = {{"output_gradient", "T", kOutput[kPairwise]},
               {"boxes1", "T", "batch num_boxes1 4"},
               {"boxes2", "T", kBoxes2[kPairwise]}};
  op.outputs = {{"gradient1", "T", "batch num_boxes1 4"}, {"gradient2", "T", kBoxes2[kPairwise]}};
  op.attributes = {{"kind", Kind::kString, "iou"}};
  op.check = &Check<kPairwise>;
  op.run = [](const Call& call) -> Error {
    return call.For<float, double>(
        [&](auto type) { return Backward<kPairwise, decltype(type)>(call); });
  };
  return op;
}

const RegisteredOp pairwise_iou(Iou<true>());
const RegisteredOp elementwise_iou(Iou<false>());
const RegisteredOp pairwise_iou_gradient(IouGradient<true>());
const RegisteredOp elementwise_iou_gradient(IouGradient<false>());

}  // namespace
}  // namespace kvision
