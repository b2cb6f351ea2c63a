"""From plans to answers: the executable and the native code below it."""
