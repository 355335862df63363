#include "kernels/binary_cross_entropy_with_logits.h"

#include "formulas/binary_cross_entropy_with_logits.h"
#include "kernels/elementwise_loss_functions.h"
#include "kernels/kernel.h"

namespace torchnotes {
namespace {

// x, y and perhaps both weights
void binary_cross_entropy(c10::Device device, const BinaryCrossEntropyLoss& a) {
  elementwise_loss<2, 4>(device, BinaryCrossEntropy{{a.label_smoothing, a.ignored}}, a);
}

void binary_cross_entropy_gradient(c10::Device device, const BinaryCrossEntropyLossGradient& a) {
  elementwise_loss_gradient<2, 4>(device, BinaryCrossEntropyBackward{{a.label_smoothing, a.ignored}}, a);
}

const RegisterKernel<BinaryCrossEntropyLoss> kBinaryCrossEntropy(binary_cross_entropy);
const RegisterKernel<BinaryCrossEntropyLossGradient> kBinaryCrossEntropyGradient(binary_cross_entropy_gradient);

}  // namespace
}  // namespace torchnotes
