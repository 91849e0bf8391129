//go:build hooks

package guest

// Flags in the order of proto/wit.
const (
	stageBias = 1 << iota
	stageToken
	stageFinish
)

// beside is the hooks of this instance's one generation.
var beside Beside

//go:wasmexport realm:tenant/hooks@0.1.0#on-request
func exportOnRequest(arguments uint32) uint32 {
	from := elements(arguments, 120)
	request := HookRequest{from.text(0), from.u32s(8), takeParams(from[16:])}
	release()
	asked, err := askHook(request)
	address, result := results(120)
	if err != nil {
		putError(result, toError(err))
		return address
	}
	beside = asked
	params := &request.Params
	if beside.Params != nil {
		params = beside.Params
	}
	putParams(result[8:], *params)
	result.putU8(112, stages(beside))
	return address
}

func stages(beside Beside) (flags uint8) {
	if beside.Bias != nil {
		flags |= stageBias
	}
	if beside.OnToken != nil {
		flags |= stageToken
	}
	if beside.OnFinish != nil {
		flags |= stageFinish
	}
	return flags
}

//go:wasmexport cabi_post_realm:tenant/hooks@0.1.0#on-request
func postOnRequest(uint32) { release() }

//go:wasmexport realm:tenant/hooks@0.1.0#bias
func exportBias(has, last uint32) uint32 {
	var steer Steer
	if beside.Bias != nil {
		var before *Token
		if has != 0 {
			before = &last
		}
		steer = beside.Bias(before)
	}
	address, result := results(12)
	result.putU8(0, steer.kind)
	switch steer.kind {
	case steerAdd:
		list, count := lendBiases(steer.biases)
		result.putList(4, list, int(count))
	case steerOnly:
		list, count := lendU32s(steer.tokens)
		result.putList(4, list, int(count))
	}
	return address
}

//go:wasmexport cabi_post_realm:tenant/hooks@0.1.0#bias
func postBias(uint32) { release() }

//go:wasmexport realm:tenant/hooks@0.1.0#on-token
func exportOnToken(id, text, textLen uint32) uint32 {
	said := string(elements(text, textLen))
	release()
	var verdict Verdict
	if beside.OnToken != nil {
		verdict = beside.OnToken(id, said)
	}
	address, result := results(12)
	result.putU8(0, verdict.kind)
	if verdict.kind != verdictPass {
		result.putText(4, verdict.text)
	}
	return address
}

//go:wasmexport cabi_post_realm:tenant/hooks@0.1.0#on-token
func postOnToken(uint32) { release() }

//go:wasmexport realm:tenant/hooks@0.1.0#on-finish
func exportOnFinish(finish uint32) uint32 {
	var text string
	if beside.OnFinish != nil {
		text = beside.OnFinish(Finish(finish))
	}
	address, result := results(8)
	result.putText(0, text)
	return address
}

//go:wasmexport cabi_post_realm:tenant/hooks@0.1.0#on-finish
func postOnFinish(uint32) { release() }
