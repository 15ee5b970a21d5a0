// task/service_events.h — the templates by which TaskService publishes. Internal to task/.
#pragma once

#include <string_view>

#include "proto/containerd_events.pb.h"
#include "task/service.h"

namespace wyvern::shim {

template <typename Event>
void TaskService::Publish(std::string_view topic, const Event& event) {
  // With mu_ held, where the order matters: the queue's order is then the order of the states.
  events_.Publish(topic, event.GetTypeName(), event.SerializeAsString());
}

}  // namespace wyvern::shim
