package guest

import "encoding/json"

//go:wasmexport realm:tenant/handler@0.1.0#functions
func exportFunctions() uint32 {
	list, count := lendList(served, 28, func(a area, function Function) {
		a.putText(0, function.Name)
		a.putText(8, function.Description)
		schema := function.Params
		if schema == "" {
			schema = "{}"
		}
		a.putText(16, schema)
		a.putFlag(24, function.Streams)
	})
	address, result := results(8)
	result.putList(0, list, int(count))
	return address
}

//go:wasmexport cabi_post_realm:tenant/handler@0.1.0#functions
func postFunctions(uint32) { release() }

//go:wasmexport realm:tenant/handler@0.1.0#handle
func exportHandle(function, functionLen, params, paramsLen uint32) uint32 {
	name := string(elements(function, functionLen))
	text := string(elements(params, paramsLen))
	release()
	outcome, err := handle(name, text)
	address, result := results(32)
	if err == nil {
		err = putOutcome(result, outcome)
	}
	if err != nil {
		putError(result, toError(err))
	}
	return address
}

//go:wasmexport cabi_post_realm:tenant/handler@0.1.0#handle
func postHandle(uint32) { release() }

func putOutcome(a area, outcome Outcome) error {
	a.putU8(8, uint8(outcome.Finish))
	if outcome.Data == nil {
		return nil
	}
	data, err := json.Marshal(outcome.Data)
	if err != nil {
		return err
	}
	a.putOption(12, true, func() { a.putText(16, string(data)) })
	return nil
}

func putError(a area, refusal *Error) {
	clear(a)
	a.putU8(0, 1)
	a.putU8(8, uint8(refusal.Code))
	switch refusal.Code {
	case TooLong:
		a.putU64(16, refusal.Tokens)
		a.putU64(24, refusal.TokensMax)
	case Busy:
		a.putU64(16, refusal.RetryMs)
	default:
		a.putText(16, refusal.Text)
	}
}
