#include "agent/policy.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"

namespace wyvern::agent {

Policy::Policy(const std::optional<std::string>& allow) : limits_(allow.has_value()) {
  allowed_.fill(!limits_);
  std::string_view left = limits_ ? std::string_view(*allow) : std::string_view();
  while (!left.empty()) {
    const std::string_view name = left.substr(0, left.find(','));
    left.remove_prefix(std::min(left.size(), name.size() + 1));
    const auto* const known = std::ranges::find(kNames, name);
    if (known != kNames.end()) {
      allowed_[static_cast<size_t>(known - kNames.begin())] = true;
    } else {
      WV_WARN("wyvern.allow: '{}' is not known here", name);
    }
  }
}

Result<> Policy::Check(What what) const {
  const auto index = static_cast<size_t>(what);
  if (allowed_[index]) {
    return {};
  }
  ++refused_;
  return Fail(Code::kPermissionDenied,
              fmt::format("this sandbox refuses it: guest.allow did not list {} when it started",
                          kNames[index]));
}

std::vector<std::string_view> Policy::allowed() const {
  std::vector<std::string_view> names;
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (allowed_[i]) {
      names.push_back(kNames[i]);
    }
  }
  return names;
}

}  // namespace wyvern::agent
