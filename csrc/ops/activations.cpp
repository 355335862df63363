// The elementwise activations of formulas/activations.h: y = f(x), its backward and, where it is not 0, its curvature.
#include <ATen/core/Tensor.h>

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "formulas/activations.h"
#include "kernels/activations.h"
#include "ops/activations.h"
#include "ops/register.h"
#include "tensors/map.h"
#include "tensors/run.h"

namespace torchnotes {
namespace {

using at::Tensor;

// The operators of an activation with these options.
template <int number, class... Option>
struct Operators {
  using Activation = std::tuple_element_t<number, Activations>;
  using Arguments = std::conditional_t<rectifies<Activation>(), RectifierMap, ActivationMap>;

  static Arguments arguments(Derivative derivative, Option... options) {
    return Arguments{{number, {options...}, derivative, {}}};
  }
  static Tensor forward(const Tensor& input, Option... options) {
    return map_to_new(arguments(Derivative::kForward, options...), input);
  }
  static void forward_(Tensor& input, Option... options) {
    map_in_place(arguments(Derivative::kForward, options...), input);
  }
  static Tensor backward(const Tensor& grad, const Tensor& saved, Option... options) {
    auto backward = arguments(Derivative::kBackward, options...);
    if constexpr (rectifies<Activation>()) {
      return map_to_new_like(saved, backward, grad, saved);  // as in torch
    }
    return map_to_new(backward, grad, saved);
  }
  static Tensor curvature(const Tensor& tangent, const Tensor& grad, const Tensor& saved, Option... options) {
    return map_to_new(arguments(Derivative::kCurvature, options...), tangent, grad, saved);
  }
};

template <int number, size_t... option>
void implement(torch::Library& m, std::index_sequence<option...>) {
  using Activation = std::tuple_element_t<number, Activations>;
  using Functions = Operators<number, decltype(double(option))...>;
  const std::string name = Activation::kName;
  m.impl(name.c_str(), Functions::forward);
  m.impl((name + "_backward").c_str(), Functions::backward);
  if constexpr (requires(const Activation& f) { f.curvature(0.0f, 0.0f, 0.0f); }) {
    m.impl((name + "_curvature").c_str(), Functions::curvature);
  }
  if constexpr (rectifies<Activation>()) {
    m.impl((name + "_").c_str(), Functions::forward_);
  }
}

template <class Activation>
constexpr size_t kOptions = std::is_empty_v<Activation> ? 0 : sizeof(Activation) / sizeof(double);

template <size_t... i>
void implement_all(torch::Library& m, std::index_sequence<i...>) {
  (implement<i + 1>(m, std::make_index_sequence<kOptions<std::tuple_element_t<i + 1, Activations>>>()), ...);
}

}  // namespace

std::vector<std::string> activation_names() {
  return []<class... Activation>(std::tuple<Activation...>*) {
    return std::vector<std::string>{Activation::kName...};
  }(static_cast<Activations*>(nullptr));
}

void check_activation(int64_t number) {
  TORCH_CHECK_VALUE(
      number >= 0 && number < int64_t(std::tuple_size_v<Activations>),
      "torchnotes: expected the number of an activation, got ",
      number
  );
}

}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  using namespace torchnotes;
  implement_all(m, std::make_index_sequence<std::tuple_size_v<Activations> - 1>());
}
