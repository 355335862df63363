#include "kernels/mse_loss.h"

#include "formulas/mse_loss.h"
#include "kernels/elementwise_loss_functions.h"
#include "kernels/kernel.h"

namespace torchnotes {
namespace {

// x, y and perhaps weights
void mse_loss(c10::Device device, const MSELoss& a) { elementwise_loss<2, 3>(device, SquaredError(), a); }
void mse_loss_gradient(c10::Device device, const MSELossGradient& a) {
  elementwise_loss_gradient<2, 3>(device, SquaredErrorBackward(), a);
}

const RegisterKernel<MSELoss> kMSELoss(mse_loss);
const RegisterKernel<MSELossGradient> kMSELossGradient(mse_loss_gradient);

}  // namespace
}  // namespace torchnotes
