#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <string>

/// The message of the exception of that type that an action throws; another exception, or none, fails the test.
template <class ErrorType, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const ErrorType& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return {};
  }
  ADD_FAILURE() << "no exception";
  return {};
}
