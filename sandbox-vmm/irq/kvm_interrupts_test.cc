#include "irq/kvm_interrupts.h"

#include <linux/kvm.h>
#include <poll.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "kvm/testing/vm_test.h"

namespace wyvern::irq {
namespace {

constexpr uint32_t kPins = 24;

class KvmMsiRouterTest : public kvm::testing::VmTest {
 protected:
  void Prepare() override {
    ASSERT_TRUE(vm_->EnableCapability(KVM_CAP_SPLIT_IRQCHIP, kPins, "split irqchip").has_value());
    router_ = std::make_unique<KvmMsiRouter>(vm_.get(), kPins, 4);
  }

  std::unique_ptr<KvmMsiRouter> router_;
};

TEST_F(KvmMsiRouterTest, FullTableIsAnErrorUntilARouteIsReleased) {
  auto event = *EventFd::Create();
  std::vector<MsiRoute> routes;
  for (int i = 0; i < 4; ++i) {
    auto route = router_->Allocate(event);
    ASSERT_TRUE(route.has_value());
    routes.push_back(*route);
  }
  EXPECT_EQ(router_->Allocate(event).error().code(), Code::kResourceExhausted);
  router_->Release(routes[2]);
  EXPECT_EQ(*router_->Allocate(event), routes[2]);
}

TEST_F(KvmMsiRouterTest, AnyMessageOfTheGuestIsTaken) {
  auto event = *EventFd::Create();
  const MsiRoute route = *router_->Allocate(event);
  for (const uint64_t address : {uint64_t{0}, uint64_t{0xfee00000}, ~uint64_t{0}}) {
    const MsiMessage message{.address = address, .data = 0xffffffff};
    EXPECT_TRUE(router_->Update(route, message, false).has_value()) << std::hex << address;
  }
}

TEST_F(KvmMsiRouterTest, MaskedRouteLeavesTheSignalInTheEventfd) {
  auto event = *EventFd::Create();
  const MsiRoute route = *router_->Allocate(event);
  const MsiMessage message{.address = 0xfee00000, .data = 0x41};
  ASSERT_TRUE(router_->Update(route, message, false).has_value());
  ASSERT_TRUE(router_->Update(route, message, true).has_value());
  event.Signal();
  EXPECT_EQ(event.Drain(), 1U);  // nobody else took it
  event.Signal();
  ASSERT_TRUE(router_->Update(route, message, false).has_value());
  // The kernel takes what is pending, from a worker of its own.
  for (int i = 0; i < 1000; ++i) {
    uint64_t count = 0;
    if (::read(event.fd().get(), &count, sizeof(count)) < 0) {
      return;
    }
    event.Signal();
    ::usleep(1000);
  }
  ADD_FAILURE() << "the signal was not taken by the irqfd";
}

// As a vector has them that another process signals, too.
TEST_F(KvmMsiRouterTest, TwoEventsOfOneMessageAreBothTaken) {
  const auto taken = [](const EventFd& event) {
    event.Signal();
    for (int i = 0; i < 1000; ++i) {
      pollfd polled{.fd = event.fd().get(), .events = POLLIN, .revents = 0};
      if (::poll(&polled, 1, 0) == 0) {
        return true;
      }
      ::usleep(1000);
    }
    return false;
  };
  const auto ours = *EventFd::Create();
  const auto theirs = *EventFd::Create();
  const MsiRoute a = *router_->Allocate(ours);
  const MsiRoute b = *router_->Allocate(theirs);
  const MsiMessage message{.address = 0xfee00000, .data = 0x41};
  const MsiUpdate on[] = {{a, message, false}, {b, message, false}};
  ASSERT_TRUE(router_->Update(on).has_value());
  EXPECT_TRUE(taken(ours));
  EXPECT_TRUE(taken(theirs));
  const MsiUpdate off[] = {{a, message, true}, {b, message, true}};
  ASSERT_TRUE(router_->Update(off).has_value());
  theirs.Signal();
  EXPECT_EQ(theirs.Drain(), 1U);  // pending
}

TEST_F(KvmMsiRouterTest, RoutesChangeTogether) {
  auto first = *EventFd::Create();
  auto second = *EventFd::Create();
  const MsiRoute a = *router_->Allocate(first);
  const MsiRoute b = *router_->Allocate(second);
  const MsiUpdate updates[] = {{a, {0xfee00000, 0x30}, false}, {b, {0xfee00000, 0x31}, false}};
  EXPECT_TRUE(router_->Update(updates).has_value());
  const MsiUpdate swapped[] = {{a, {0xfee00000, 0x31}, true}, {b, {0xfee01000, 0x30}, false}};
  EXPECT_TRUE(router_->Update(swapped).has_value());
  EXPECT_TRUE(router_->Update(swapped).has_value());
  router_->Release(a);
  router_->Release(b);
}

TEST_F(KvmMsiRouterTest, RouteWhoseIrqfdFailedStaysMaskedAndIsTriedAgain) {
  auto first = *EventFd::Create();
  auto second = *EventFd::Create();
  const MsiRoute a = *router_->Allocate(first);
  const MsiRoute b = *router_->Allocate(second);
  const MsiUpdate updates[] = {{a, {0xfee00000, 0x30}, false}, {b, {0xfee00000, 0x31}, false}};
  // KVM takes an eventfd once.
  ASSERT_TRUE(vm_->SetIrqfd(first, static_cast<uint32_t>(a), true).has_value());
  EXPECT_FALSE(router_->Update(updates).has_value());
  ASSERT_TRUE(vm_->SetIrqfd(first, static_cast<uint32_t>(a), false).has_value());
  ASSERT_TRUE(router_->Update(updates).has_value());
  EXPECT_FALSE(vm_->SetIrqfd(first, static_cast<uint32_t>(a), true).has_value());
  EXPECT_FALSE(vm_->SetIrqfd(second, static_cast<uint32_t>(b), true).has_value());
}

TEST_F(KvmMsiRouterTest, PinsAndRoutesShareTheTable) {
  std::vector<std::optional<MsiMessage>> pins(kPins);
  pins[9] = MsiMessage{.address = 0xfee00000, .data = 0xc041};
  EXPECT_TRUE(router_->SetPins(pins).has_value());
  auto event = *EventFd::Create();
  const MsiRoute route = *router_->Allocate(event);
  EXPECT_TRUE(router_->Update(route, {0xfee00000, 0x42}, false).has_value());
  pins[9].reset();
  EXPECT_TRUE(router_->SetPins(pins).has_value());
}

TEST_F(KvmMsiRouterTest, DoorbellTwiceIsAnErrorAndRemovalUndoesIt) {
  KvmDoorbells doorbells(vm_.get());
  auto event = *EventFd::Create();
  const Doorbell bell{.address = mem::Gpa{0x1000}, .length = 2, .match = std::nullopt};
  EXPECT_TRUE(doorbells.AssignIoeventfd(bell, event).has_value());
  EXPECT_EQ(doorbells.AssignIoeventfd(bell, event).error().code(), Code::kAlreadyExists);
  EXPECT_TRUE(doorbells.RemoveIoeventfd(bell, event).has_value());
  EXPECT_EQ(doorbells.RemoveIoeventfd(bell, event).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace wyvern::irq
