//go:build health || !wasip1

package guest

import "fmt"

var health func() error

// Health says who is asked whether the program works, before it takes a call: an error says why it
// does not. It may not reach the host, for no tenant is known then. Call it beside [Serve], and build
// with -health.
func Health(check func() error) { health = check }

// checkHealth makes an error of a panic, which would end without a word.
func checkHealth() (err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = fmt.Errorf("%v", broken)
		}
	}()
	if health == nil {
		return fmt.Errorf("the program was built with a health check and has none")
	}
	return health()
}
